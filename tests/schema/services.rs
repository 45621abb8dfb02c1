//! Five services as they are out there, in our own words: a newsletter, a host of documentation, an identity provider, a sender of webhooks, a place for
//! mods. Their tables grew over years, with what the databases have for that, and nothing in them is an error.

use chrono::{DateTime, Utc};
use rowlock::schema::{Level, Models, check_file, verify};
use rowlock::{Counter, Fence, FindOrCreate, Guarded, Idempotent, Lockable, Queue, Versioned};
use rowlock_tests::sqlite;
use sqlx::types::{Json, Uuid};

use super::of_its_own;

/// A newsletter: columns that came later, a ledger and a queue that were there before rowlock, with a composite key. On both databases.
const NEWSLETTER: &str = "
    CREATE TABLE subscriptions (id {uuid} NOT NULL, email text NOT NULL UNIQUE, name text NOT NULL, subscribed_at {timestamp} NOT NULL, PRIMARY KEY (id));
    ALTER TABLE subscriptions ADD COLUMN status text NOT NULL DEFAULT 'confirmed';
    CREATE TABLE subscription_tokens (subscription_token text NOT NULL, subscriber_id {uuid} NOT NULL REFERENCES subscriptions (id), PRIMARY KEY (subscription_token));
    CREATE TABLE users (user_id {uuid} PRIMARY KEY, username text NOT NULL UNIQUE, password_hash text NOT NULL);
    CREATE TABLE idempotency (user_id {uuid} NOT NULL REFERENCES users (user_id), idempotency_key text NOT NULL, response_status_code smallint,
        response_body {bytes}, created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (user_id, idempotency_key));
    ALTER TABLE idempotency ADD COLUMN fingerprint {bytes} NOT NULL DEFAULT '';
    ALTER TABLE idempotency ADD COLUMN outcome {json};
    ALTER TABLE idempotency ADD COLUMN fence bigint NOT NULL DEFAULT 0;
    ALTER TABLE idempotency ADD COLUMN leased_until {timestamp} NOT NULL DEFAULT '1970-01-01 00:00:00+00:00';
    ALTER TABLE idempotency ADD COLUMN finished_at {timestamp};
    CREATE TABLE newsletter_issues (newsletter_issue_id {uuid} NOT NULL PRIMARY KEY, title text NOT NULL, text_content text NOT NULL, published_at text NOT NULL);
    CREATE TABLE issue_delivery_queue (newsletter_issue_id {uuid} NOT NULL REFERENCES newsletter_issues (newsletter_issue_id), subscriber_email text NOT NULL,
        PRIMARY KEY (newsletter_issue_id, subscriber_email));
    ALTER TABLE issue_delivery_queue ADD COLUMN n_retries integer NOT NULL DEFAULT 0;
    ALTER TABLE issue_delivery_queue ADD COLUMN execute_after {timestamp};
    ALTER TABLE issue_delivery_queue ADD COLUMN state text NOT NULL DEFAULT 'ready';
    ALTER TABLE issue_delivery_queue ADD COLUMN fence bigint NOT NULL DEFAULT 0;
    ALTER TABLE issue_delivery_queue ADD COLUMN leased_until {timestamp};
";

#[derive(Clone, sqlx::FromRow, FindOrCreate, Guarded)]
#[rowlock(table = "subscriptions", unique(email))]
#[rowlock(schema = "tests/schema/services.json")]
struct Subscription {
    #[rowlock(key)]
    id: Uuid,
    email: String,
    name: String,
    subscribed_at: DateTime<Utc>,
    status: String,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "subscription_tokens", schema = "tests/schema/services.json")]
struct Token {
    #[rowlock(key)]
    subscription_token: String,
    subscriber_id: Uuid,
}

#[derive(Clone, sqlx::FromRow, Idempotent)]
#[rowlock(table = "idempotency", schema = "tests/schema/services.json")]
struct Publication {
    #[rowlock(key)]
    user_id: Uuid,
    #[rowlock(key)]
    idempotency_key: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    #[sqlx(json(nullable))]
    outcome: Option<Vec<i64>>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: DateTime<Utc>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "issue_delivery_queue", done = delete)]
#[rowlock(schema = "tests/schema/services.json")]
struct Delivery {
    #[rowlock(key)]
    newsletter_issue_id: Uuid,
    #[rowlock(key)]
    subscriber_email: String,
    #[rowlock(attempts)]
    n_retries: i32,
    #[rowlock(run_at)]
    execute_after: Option<DateTime<Utc>>,
    #[rowlock(state)]
    state: String,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

/// A place for articles, where names are compared without case, and favorites are counted.
const ARTICLES: &str = "
    CREATE TABLE \"user\" (user_id {uuid} PRIMARY KEY NOT NULL, username {name} NOT NULL UNIQUE, bio text NOT NULL DEFAULT '', image text,
        created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP, updated_at {timestamp});
    CREATE TABLE article (article_id {uuid} PRIMARY KEY NOT NULL, user_id {uuid} NOT NULL REFERENCES \"user\" (user_id) ON DELETE CASCADE, slug text NOT NULL UNIQUE,
        title text NOT NULL, updated_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP, favorites bigint NOT NULL DEFAULT 0 CHECK (favorites >= 0));
    CREATE TABLE follow (followed_user_id {uuid} NOT NULL, following_user_id {uuid} NOT NULL, created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP,
        CONSTRAINT user_cannot_follow_self CHECK (followed_user_id <> following_user_id), PRIMARY KEY (following_user_id, followed_user_id));
    CREATE INDEX follow_followed ON follow (followed_user_id);
";

#[derive(Clone, sqlx::FromRow, FindOrCreate, Versioned)]
#[rowlock(table = "user", unique(username))]
#[rowlock(schema = "tests/schema/services.json")]
struct Author {
    #[rowlock(key)]
    user_id: Uuid,
    username: String,
    #[rowlock(default)]
    bio: String,
    image: Option<String>,
    #[rowlock(check, default)]
    updated_at: Option<DateTime<Utc>>,
}

#[derive(Clone, sqlx::FromRow, Counter, Versioned)]
#[rowlock(table = "article", existing_rows)]
#[rowlock(schema = "tests/schema/services.json")]
struct Article {
    #[rowlock(key)]
    article_id: Uuid,
    title: String,
    #[rowlock(counter(min = 0))]
    favorites: i64,
    #[rowlock(check, default)]
    updated_at: DateTime<Utc>,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "follow", unique(followed_user_id, following_user_id))]
#[rowlock(schema = "tests/schema/services.json")]
struct Follow {
    followed_user_id: Uuid,
    following_user_id: Uuid,
    #[rowlock(generated)]
    created_at: DateTime<Utc>,
}

const ON_BOTH: Models = rowlock::models![
    Subscription,
    Token,
    Publication,
    Delivery,
    Author,
    Article,
    Follow
];

#[tokio::test]
async fn five_services_raise_no_alarm_on_postgres() {
    let tables = format!("{NEWSLETTER}{ARTICLES}{}", postgres::TABLES);
    let tables = tables
        .replace("{uuid}", "uuid")
        .replace("{name}", "text COLLATE insensitive");
    let pool = of_its_own(&format!("{}{tables}", postgres::BEFORE)).await;
    for models in [ON_BOTH, postgres::MODELS] {
        let report = verify(&pool, models).await.unwrap();
        assert!(
            report
                .findings()
                .all(|(_, finding)| finding.level == Level::Note)
        );
    }
    check_file(&pool, "schema/services.postgres.json")
        .await
        .unwrap();
}

#[tokio::test]
async fn services_raise_no_alarm_on_sqlite() {
    let tables = format!("{NEWSLETTER}{ARTICLES}");
    let tables = tables
        .replace("{uuid}", "blob")
        .replace("{name}", "text COLLATE NOCASE");
    let database = sqlite::database(&tables).await;
    verify(&database.pool, ON_BOTH).await.unwrap();
    check_file(&database.pool, "schema/services.sqlite.json")
        .await
        .unwrap();
}

/// What only PostgreSQL has.
mod postgres {
    use super::*;

    pub(super) const MODELS: Models = rowlock::models![
        Keyword,
        Crate,
        Release,
        Owner,
        Repository,
        Setting,
        Build,
        RegistrationToken,
        Provider,
        Email,
        Leader,
        Service,
        EventType,
        Attempt,
        Mod,
        Downloads,
        Note,
        Notification
    ];

    pub(super) const BEFORE: &str = "
        CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE SCHEMA event;
        CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
    ";

    pub(super) const TABLES: &str = "
        CREATE TRIGGER user_updated BEFORE UPDATE ON \"user\" FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION set_updated_at();
        ALTER TABLE article ADD COLUMN tag_list text[] NOT NULL DEFAULT '{}';
        CREATE INDEX article_tags ON article USING gin (tag_list);

        -- A host of documentation.
        CREATE TABLE keywords (id serial PRIMARY KEY, name varchar(255), slug varchar NOT NULL);
        ALTER TABLE keywords ADD CONSTRAINT keywords_slug_key UNIQUE (slug);
        CREATE TABLE crates (id serial NOT NULL PRIMARY KEY, name varchar(255) NOT NULL, latest_version_id integer);
        CREATE UNIQUE INDEX crates_name ON crates (name);
        CREATE UNIQUE INDEX crates_normalized ON crates (lower(replace(name, '_', '-')));
        CREATE TABLE releases (id serial PRIMARY KEY, crate_id integer NOT NULL REFERENCES crates (id) ON DELETE CASCADE, version varchar(100), release_time timestamptz,
            yanked boolean NOT NULL DEFAULT false, downloads integer NOT NULL DEFAULT 0, features jsonb, files json, UNIQUE (crate_id, version));
        CREATE INDEX releases_by_time ON releases (release_time DESC NULLS LAST);
        CREATE TYPE owner_kind AS ENUM ('user', 'team');
        CREATE TABLE owners (id serial PRIMARY KEY, login varchar(255) UNIQUE NOT NULL, avatar text, kind owner_kind NOT NULL DEFAULT 'user');
        CREATE TABLE repositories (id serial PRIMARY KEY, host varchar NOT NULL, host_id varchar NOT NULL, stars integer NOT NULL, updated_at timestamptz NOT NULL,
            UNIQUE (host, host_id));
        CREATE TABLE config (name varchar(100) PRIMARY KEY, value json NOT NULL);
        CREATE TABLE builds_queue (id serial PRIMARY KEY, name varchar(255) UNIQUE NOT NULL, version varchar(255) NOT NULL, priority integer DEFAULT 0 NOT NULL,
            date_added timestamptz DEFAULT now(), attempt integer DEFAULT 0 NOT NULL, run_at timestamptz DEFAULT now() NOT NULL, state text DEFAULT 'ready' NOT NULL,
            fence bigint DEFAULT 0 NOT NULL, leased_until timestamptz, last_error text);
        CREATE INDEX builds_queue_claim ON builds_queue (priority, run_at, id) WHERE state = 'ready';

        -- An identity provider.
        CREATE TABLE user_registration_tokens (user_registration_token_id uuid PRIMARY KEY, token text NOT NULL UNIQUE, usage_limit integer,
            times_used integer NOT NULL DEFAULT 0, last_used_at timestamptz, created_at timestamptz NOT NULL, revoked_at timestamptz);
        CREATE TABLE upstream_oauth_providers (upstream_oauth_provider_id uuid CONSTRAINT providers_pkey PRIMARY KEY, issuer text, scope text NOT NULL,
            additional_parameters jsonb, ui_order integer NOT NULL DEFAULT 0, response_types text[] NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL, disabled_at timestamptz);
        CREATE TABLE user_emails (user_email_id uuid PRIMARY KEY, user_id uuid NOT NULL, email text NOT NULL, confirmed_at timestamptz);
        CREATE UNIQUE INDEX user_emails_lower ON user_emails (user_id, lower(email)) INCLUDE (confirmed_at);
        CREATE UNLOGGED TABLE queue_leader (active boolean NOT NULL DEFAULT true UNIQUE, expires_at timestamptz NOT NULL, queue_worker_id uuid NOT NULL,
            CONSTRAINT queue_leader_active CHECK (active IS true));

        -- A sender of webhooks.
        CREATE TABLE event.application (application__id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY, deleted_at timestamptz);
        CREATE TABLE event.service (application__id uuid NOT NULL REFERENCES event.application, service__name text NOT NULL CHECK (length(service__name) > 1),
            PRIMARY KEY (application__id, service__name));
        CREATE TABLE event.event_type (application__id uuid NOT NULL REFERENCES event.application, service__name text NOT NULL, resource_type__name text NOT NULL,
            verb__name text NOT NULL, event_type__name text NOT NULL GENERATED ALWAYS AS (service__name || '.' || resource_type__name || '.' || verb__name) STORED,
            deactivated_at timestamptz, PRIMARY KEY (application__id, event_type__name));
        CREATE TABLE event.request_attempt (request_attempt__id uuid NOT NULL DEFAULT gen_random_uuid(), created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
            picked_at timestamptz, failed_at timestamptz, succeeded_at timestamptz, delay_until timestamptz, retry_count smallint NOT NULL DEFAULT 0,
            PRIMARY KEY (request_attempt__id), CHECK (NOT (failed_at IS NOT NULL AND succeeded_at IS NOT NULL)));
        CREATE INDEX request_attempt_open ON event.request_attempt (created_at) WHERE failed_at IS NULL AND succeeded_at IS NULL;

        -- A place for mods.
        CREATE TABLE mods (id bigint PRIMARY KEY, slug varchar(255), name varchar(255) NOT NULL, follows integer NOT NULL DEFAULT 0, downloads integer NOT NULL DEFAULT 0,
            updated timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP, color integer, loaders varchar(50)[] NOT NULL DEFAULT '{}', CHECK (downloads >= 0));
        CREATE UNIQUE INDEX mods_slug ON mods (lower(slug));
        CREATE TABLE daily_downloads (mod_id bigint REFERENCES mods ON DELETE CASCADE NOT NULL, day date NOT NULL, downloads bigint NOT NULL DEFAULT 0, PRIMARY KEY (day, mod_id))
            PARTITION BY RANGE (day);
        CREATE TABLE daily_downloads_all PARTITION OF daily_downloads DEFAULT;
        CREATE TABLE moderation_notes (id bigint PRIMARY KEY, user_id bigint, organization_id bigint, text text NOT NULL DEFAULT '', version integer NOT NULL DEFAULT 0,
            CHECK (num_nonnulls(user_id, organization_id) = 1));
        CREATE UNIQUE INDEX moderation_notes_user ON moderation_notes (user_id) WHERE organization_id IS NULL;
        CREATE UNIQUE INDEX moderation_notes_organization ON moderation_notes (organization_id) WHERE user_id IS NULL;
        CREATE TABLE notifications (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL, body jsonb NOT NULL, read boolean NOT NULL DEFAULT false);
        CREATE VIEW unread AS SELECT user_id, count(*) FROM notifications WHERE NOT read GROUP BY user_id;
    ";

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "keywords", unique(slug), backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Keyword {
        #[rowlock(key, generated)]
        id: i32,
        name: Option<String>,
        slug: String,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate, Lockable)]
    #[rowlock(table = "crates", unique(name), backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Crate {
        #[rowlock(key, generated)]
        id: i32,
        name: String,
        #[rowlock(default)]
        latest_version_id: Option<i32>,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate, Counter)]
    #[rowlock(
        table = "releases",
        unique(crate_id, version, where = "version IS NOT NULL"),
        existing_rows,
        backend(Postgres)
    )]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Release {
        #[rowlock(key, generated)]
        id: i32,
        crate_id: i32,
        version: Option<String>,
        release_time: Option<DateTime<Utc>>,
        #[rowlock(default)]
        yanked: bool,
        #[rowlock(counter)]
        downloads: i32,
        features: Option<Json<Vec<String>>>,
        #[sqlx(json(nullable))]
        files: Option<Vec<String>>,
    }

    #[derive(Clone, Copy, sqlx::Type)]
    #[sqlx(type_name = "owner_kind", rename_all = "lowercase")]
    pub(super) enum OwnerKind {
        User,
        Team,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "owners", unique(login), backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Owner {
        #[rowlock(key, generated)]
        id: i32,
        login: String,
        avatar: Option<String>,
        kind: OwnerKind,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "repositories", unique(host, host_id), backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Repository {
        #[rowlock(key, generated)]
        id: i32,
        host: String,
        host_id: String,
        stars: i32,
        #[rowlock(on_insert = "now()", on_update = "now()")]
        updated_at: DateTime<Utc>,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "config", backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Setting {
        #[rowlock(unique)]
        name: String,
        value: Json<Vec<String>>,
    }

    #[derive(Clone, sqlx::FromRow, Queue, FindOrCreate)]
    #[rowlock(table = "builds_queue", unique(name), backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Build {
        #[rowlock(key, generated)]
        id: i32,
        name: String,
        version: String,
        #[rowlock(priority(asc))]
        priority: i32,
        #[rowlock(run_at, default)]
        run_at: DateTime<Utc>,
        #[rowlock(state)]
        state: String,
        #[rowlock(attempts)]
        attempt: i32,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        leased_until: Option<DateTime<Utc>>,
        #[rowlock(last_error)]
        last_error: Option<String>,
    }

    #[derive(Clone, sqlx::FromRow, Guarded, Counter)]
    #[rowlock(table = "user_registration_tokens", existing_rows, backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct RegistrationToken {
        #[rowlock(key)]
        user_registration_token_id: Uuid,
        usage_limit: Option<i32>,
        #[rowlock(counter(min = 0))]
        times_used: i32,
        revoked_at: Option<DateTime<Utc>>,
    }

    /// Some columns of a wide table, whose row version is PostgreSQL's own.
    #[derive(Clone, sqlx::FromRow, Versioned)]
    #[rowlock(table = "upstream_oauth_providers", backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Provider {
        #[rowlock(key)]
        upstream_oauth_provider_id: Uuid,
        issuer: Option<String>,
        scope: String,
        additional_parameters: Option<Json<Vec<(String, String)>>>,
        ui_order: i32,
        response_types: Vec<String>,
        created_at: DateTime<Utc>,
        #[rowlock(version)]
        version: rowlock::Xmin,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(
        table = "user_emails",
        unique(user_id, lower(email)),
        backend(Postgres)
    )]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Email {
        user_email_id: Uuid,
        user_id: Uuid,
        email: String,
        confirmed_at: Option<DateTime<Utc>>,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "queue_leader", unique(active), backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Leader {
        active: bool,
        expires_at: DateTime<Utc>,
        queue_worker_id: Uuid,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(
        table = "event.service",
        unique(service, application),
        backend(Postgres)
    )]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Service {
        #[sqlx(rename = "application__id")]
        application: Uuid,
        #[sqlx(rename = "service__name")]
        service: String,
    }

    /// The key has a column that the database makes.
    #[derive(Clone, sqlx::FromRow, Guarded)]
    #[rowlock(table = "event.event_type", backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct EventType {
        #[rowlock(key)]
        #[sqlx(rename = "application__id")]
        application_id: Uuid,
        #[rowlock(key, generated)]
        #[sqlx(rename = "event_type__name")]
        event_type_name: String,
        #[sqlx(rename = "service__name")]
        service_name: String,
        #[sqlx(rename = "resource_type__name")]
        resource_type_name: String,
        #[sqlx(rename = "verb__name")]
        verb_name: String,
        deactivated_at: Option<DateTime<Utc>>,
    }

    #[derive(Clone, sqlx::FromRow, Guarded)]
    #[rowlock(table = "event.request_attempt", backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Attempt {
        #[rowlock(key, generated)]
        #[sqlx(rename = "request_attempt__id")]
        request_attempt_id: Uuid,
        picked_at: Option<DateTime<Utc>>,
        failed_at: Option<DateTime<Utc>>,
        succeeded_at: Option<DateTime<Utc>>,
        retry_count: i16,
    }

    #[derive(Clone, sqlx::FromRow, Counter, Versioned)]
    #[rowlock(table = "mods", existing_rows, backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Mod {
        #[rowlock(key)]
        id: i64,
        slug: Option<String>,
        name: String,
        #[rowlock(counter)]
        follows: i32,
        #[rowlock(counter(min = 0))]
        downloads: i32,
        loaders: Vec<String>,
        #[rowlock(check)]
        updated: DateTime<Utc>,
    }

    #[derive(Clone, sqlx::FromRow, Counter)]
    #[rowlock(table = "daily_downloads", backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Downloads {
        #[rowlock(key)]
        mod_id: i64,
        #[rowlock(key)]
        day: chrono::NaiveDate,
        #[rowlock(counter)]
        downloads: i64,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate, Versioned)]
    #[rowlock(
        table = "moderation_notes",
        unique(user_id, where = "organization_id IS NULL and user_id is not null"),
        backend(Postgres)
    )]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Note {
        #[rowlock(key)]
        id: i64,
        user_id: Option<i64>,
        organization_id: Option<i64>,
        text: String,
        #[rowlock(version)]
        version: i32,
    }

    #[derive(Clone, sqlx::FromRow, Guarded, Lockable)]
    #[rowlock(table = "notifications", backend(Postgres))]
    #[rowlock(schema = "tests/schema/services.json")]
    pub(super) struct Notification {
        #[rowlock(key, generated)]
        id: i64,
        user_id: i64,
        body: Json<Vec<String>>,
        read: bool,
    }
}
