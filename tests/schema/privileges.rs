//! What the user of the connection may do, column by column, and what its methods need.

use std::time::Duration;

use rowlock::schema::{Finding, Models, Report, Rule, VerifyError, verify};
use rowlock::{Fault, Fence};
use rowlock_tests::postgres;
use sqlx::postgres::PgPoolOptions;

use super::of_its_own;

type Error = rowlock::Error;

#[derive(
    Clone, sqlx::FromRow, rowlock::Versioned, rowlock::Guarded, rowlock::Lockable, rowlock::Counter,
)]
#[rowlock(table = "articles", existing_rows, backend(Postgres))]
struct Article {
    #[rowlock(key, generated)]
    id: i64,
    title: String,
    #[rowlock(on_update = "now()")]
    changed_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(version)]
    lock_version: i64,
}

/// Without a version: a save compares the whole row, with columns that the struct has not.
#[derive(Clone, sqlx::FromRow, rowlock::Lockable)]
#[rowlock(table = "drawers", backend(Postgres))]
struct Drawer {
    #[rowlock(key)]
    id: i64,
    title: String,
}

#[derive(Clone, sqlx::FromRow, rowlock::FindOrCreate)]
#[rowlock(table = "labels", unique(slug), backend(Postgres))]
struct Label {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
    title: String,
}

#[derive(Clone, sqlx::FromRow, rowlock::Counter)]
#[rowlock(table = "page_views", backend(Postgres))]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Clone, sqlx::FromRow, rowlock::Idempotent)]
#[rowlock(table = "asked", backend(Postgres))]
struct Asked {
    #[rowlock(key)]
    name: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    outcome: Option<String>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: chrono::DateTime<chrono::Utc>,
    #[rowlock(finished)]
    finished_at: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Clone, sqlx::FromRow, rowlock::Queue)]
#[rowlock(table = "errands", backend(Postgres))]
struct Errand {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(run_at, default)]
    run_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<chrono::DateTime<chrono::Utc>>,
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// Each table has a column more, which no method needs; and keys that are numbered by a sequence.
const TABLES: &str = "
    CREATE TABLE articles (id bigserial PRIMARY KEY, title text NOT NULL, changed_at timestamptz NOT NULL DEFAULT now(),
        views bigint NOT NULL DEFAULT 0, lock_version bigint NOT NULL, secret text);
    CREATE TABLE drawers (id bigint PRIMARY KEY, title text NOT NULL, other text);
    INSERT INTO drawers VALUES (1, 'a');
    CREATE TABLE labels (id bigserial PRIMARY KEY, slug text NOT NULL UNIQUE, title text NOT NULL, secret text);
    CREATE TABLE page_views (page bigint PRIMARY KEY, views bigint NOT NULL, secret text);
    CREATE TABLE asked (name text PRIMARY KEY, fingerprint bytea NOT NULL, outcome text, fence bigint NOT NULL,
        leased_until timestamptz NOT NULL, finished_at timestamptz, secret text);
    CREATE TABLE errands (id bigserial PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT now(), state text NOT NULL, attempts integer NOT NULL,
        fence bigint NOT NULL, leased_until timestamptz, last_error text, finished_at timestamptz, secret text);
    INSERT INTO articles (title, lock_version) VALUES ('a', 0);
";

/// What is granted, and on what; each column by itself.
const GRANTS: &[(&str, &[&str])] = &[
    (
        "articles",
        &[
            "SELECT (id)",
            "SELECT (title)",
            "SELECT (changed_at)",
            "SELECT (views)",
            "SELECT (lock_version)",
            "INSERT (title)",
            "INSERT (views)",
            "INSERT (lock_version)",
            "UPDATE (title)",
            "UPDATE (changed_at)",
            "UPDATE (views)",
            "UPDATE (lock_version)",
            "DELETE",
        ],
    ),
    ("SEQUENCE articles_id_seq", &["USAGE"]),
    (
        "drawers",
        &[
            "SELECT (id)",
            "SELECT (title)",
            "SELECT (other)",
            "UPDATE (title)",
        ],
    ),
    (
        "labels",
        &[
            "SELECT (id)",
            "SELECT (slug)",
            "SELECT (title)",
            "SELECT (xmax)",
            "INSERT (slug)",
            "INSERT (title)",
            "UPDATE (title)",
        ],
    ),
    ("SEQUENCE labels_id_seq", &["USAGE"]),
    (
        "page_views",
        &[
            "SELECT (page)",
            "SELECT (views)",
            "INSERT (page)",
            "INSERT (views)",
            "UPDATE (views)",
        ],
    ),
    (
        "asked",
        &[
            "SELECT (name)",
            "SELECT (fingerprint)",
            "SELECT (outcome)",
            "SELECT (fence)",
            "SELECT (leased_until)",
            "SELECT (finished_at)",
            "INSERT (name)",
            "INSERT (fingerprint)",
            "INSERT (fence)",
            "INSERT (leased_until)",
            "UPDATE (outcome)",
            "UPDATE (fence)",
            "UPDATE (leased_until)",
            "UPDATE (finished_at)",
            "DELETE",
        ],
    ),
    (
        "errands",
        &[
            "SELECT (id)",
            "SELECT (run_at)",
            "SELECT (state)",
            "SELECT (attempts)",
            "SELECT (fence)",
            "SELECT (leased_until)",
            "SELECT (last_error)",
            "SELECT (finished_at)",
            "INSERT (run_at)",
            "INSERT (state)",
            "INSERT (attempts)",
            "INSERT (fence)",
            "UPDATE (run_at)",
            "UPDATE (state)",
            "UPDATE (attempts)",
            "UPDATE (fence)",
            "UPDATE (leased_until)",
            "UPDATE (last_error)",
            "UPDATE (finished_at)",
            "DELETE",
        ],
    ),
    ("SEQUENCE errands_id_seq", &["USAGE"]),
];

const MODELS: Models = rowlock::models![Article, Drawer, Label, PageViews, Asked, Errand];

async fn articles(db: &postgres::Pool) -> Result<(), Error> {
    let first = Article::load(db, 1).await?;
    first.update(db).await?;
    let new = first.insert(db).await?;
    let many = Article::load_many(db, [1, new.id]).await;
    let many: Vec<Article> = many.into_iter().collect::<Result<_, _>>()?;
    for updated in Article::update_many(db, &many).await {
        updated?;
    }
    Article::add_views(db, 1, 1).await?;
    Article::add_views_many(db, [(1, 1), (new.id, 1)]).await?;
    Article::update_if(db, 1, Article::TITLE.eq("a".to_owned()), |set| {
        set.set(Article::TITLE, "a".to_owned());
        set.add(Article::VIEWS, 1);
    })
    .await?;
    Article::delete_by_key(db, new.id).await?;
    let mut transaction = db.begin().await.unwrap();
    let mut locked = Article::lock(&mut transaction, 1).await?;
    locked.title = "a".to_owned();
    locked.save(&mut transaction).await?;
    transaction.commit().await.unwrap();
    Article::load(db, 1).await?;
    Ok(())
}

async fn drawers(db: &postgres::Pool) -> Result<(), Error> {
    let mut transaction = db.begin().await.unwrap();
    let mut locked = Drawer::lock(&mut transaction, 1).await?;
    locked.title.push('b');
    locked.save(&mut transaction).await?;
    transaction.commit().await.unwrap();
    Ok(())
}

async fn labels(db: &postgres::Pool) -> Result<(), Error> {
    let new = |slug: String| NewLabel {
        slug,
        title: "title".to_owned(),
    };
    let slug = postgres::unique_name();
    Label::find_or_create(db, new(slug.clone())).await?;
    Label::upsert(db, new(slug.clone())).await?;
    Label::update_or_create(db, new(slug.clone())).await?;
    for upserted in Label::upsert_many(db, [new(slug.clone()), new(slug + "_")]).await {
        upserted?;
    }
    Ok(())
}

async fn page_views(db: &postgres::Pool) -> Result<(), Error> {
    PageViews::add_views(db, 1, 1).await?;
    PageViews::add_views_many(db, [(1, 1), (2, 1)]).await?;
    PageViews::get(db, 1).await?;
    Ok(())
}

async fn asked(db: &postgres::Pool) -> Result<(), Error> {
    let name = postgres::unique_name();
    for _ in 0..2 {
        let work = async |_: &mut rowlock::Tx<sqlx::Postgres>| Ok::<_, Error>("done".to_owned());
        let _ = Asked::once(db, &name, &1, work).await?;
    }
    Asked::purge(db, Duration::ZERO).await?;
    Ok(())
}

async fn errands(db: &postgres::Pool) -> Result<(), Error> {
    let new = || NewErrand {};
    Errand::enqueue(db, new()).await?;
    Errand::enqueue_many(db, [new(), new()]).await?;
    let batch = Errand::claim(db, 1).lease(Duration::from_secs(60)).await?;
    for job in batch {
        job.complete(db).await?;
    }
    Errand::rescue(db).await?;
    Errand::redrive(db).await?;
    Errand::purge(db, Duration::ZERO).await?;
    Ok(())
}

/// The methods of all models: the first error of the database for want of a privilege.
async fn refused(db: &postgres::Pool) -> Option<Error> {
    let results = [
        articles(db).await,
        drawers(db).await,
        labels(db).await,
        page_views(db).await,
        asked(db).await,
        errands(db).await,
    ];
    let mut errors = results.into_iter().filter_map(Result::err);
    let first = errors.next()?;
    assert_eq!(first.fault(), Some(Fault::PermissionDenied), "{first}");
    Some(first)
}

async fn privileges(db: &postgres::Pool) -> Vec<Finding> {
    let report: Report = match verify(db, MODELS).await {
        Ok(report) | Err(VerifyError::Mismatch(report)) => report,
        Err(error) => panic!("{error}"),
    };
    let found = report.findings().map(|(_, finding)| finding.clone());
    found
        .filter(|finding| [Rule::Privilege, Rule::Statement].contains(&finding.rule))
        .collect()
}

/// Whether a finding names what was granted; of a table of which nothing else was, the privilege alone.
fn is_about(finding: &Finding, granted: &str, on: &str) -> bool {
    let message = &finding.message;
    let (privilege, column) = granted.split_once(" (").unwrap_or((granted, ""));
    let column = column.trim_end_matches(')');
    match on.strip_prefix("SEQUENCE ") {
        Some(sequence) => message.contains(&format!("the sequence `{sequence}`")),
        None => {
            message.contains(&format!("may not {privilege} `{column}` of `{on}`"))
                || message.contains(&format!("may not {privilege} on `{on}`"))
        }
    }
}

#[tokio::test]
async fn a_privilege_that_a_method_needs_is_missed_before_the_method_does() {
    let pool = of_its_own(TABLES).await;
    let role = postgres::unique_name();
    let admin = async |sql: String| {
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    };
    admin(format!("CREATE ROLE {role}")).await;
    for (on, all) in GRANTS {
        for granted in *all {
            admin(format!("GRANT {granted} ON {on} TO {role}")).await;
        }
    }
    let set_role = format!("SET ROLE {role}");
    let user = PgPoolOptions::new().max_connections(1);
    let user = user.after_connect(move |connection, _| {
        let set_role = sqlx::AssertSqlSafe(set_role.clone());
        Box::pin(async move { sqlx::raw_sql(set_role).execute(connection).await.map(drop) })
    });
    let user = user.connect_lazy_with((*pool.connect_options()).clone());

    assert_eq!(privileges(&user).await, []);
    let error = refused(&user).await;
    assert!(error.is_none(), "{error:?}");
    let mut wrong = Vec::new();
    for (on, all) in GRANTS {
        for granted in *all {
            admin(format!("REVOKE {granted} ON {on} FROM {role}")).await;
            let (is_refused, found) = (refused(&user).await, privileges(&user).await);
            let is_told = found.iter().any(|one| is_about(one, granted, on));
            let helps: Vec<_> = found.iter().filter_map(|one| one.help.clone()).collect();
            if is_refused.is_none() || !is_told || helps.len() != found.len() {
                wrong.push(format!("{granted} on {on}: {is_refused:?}, {found:?}"));
            }
            // As it is pasted.
            for help in helps {
                admin(help).await;
            }
            if refused(&user).await.is_some() || !privileges(&user).await.is_empty() {
                wrong.push(format!("{granted} on {on}: {found:?} did not help"));
                admin(format!("GRANT {granted} ON {on} TO {role}")).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    user.close().await;
    admin(format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
