//! Where a model can stand, what can be a key, and who sees what: under lints that allow no warning.

#![deny(warnings, missing_debug_implementations)]

use rowlock::queue::QueueState;
use rowlock::{Counter, Fence, FindOrCreate, Idempotent, Lockable, Queue, Versioned};

type Pool = sqlx::Pool<sqlx::Sqlite>;

/// Two texts in one key, which are two lifetimes.
mod two_texts {
    use super::{Counter, FindOrCreate, Lockable, Pool, Versioned};

    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate)]
    #[rowlock(table = "two", unique(b, c))]
    pub(super) struct Two {
        #[rowlock(key)]
        a: String,
        #[rowlock(key)]
        b: String,
        c: String,
        #[rowlock(version)]
        version: i64,
    }

    #[derive(Debug, sqlx::FromRow, Counter)]
    #[rowlock(table = "views")]
    struct Views {
        #[rowlock(key)]
        site: String,
        #[rowlock(key)]
        page: String,
        #[rowlock(counter)]
        views: i64,
    }

    pub(super) async fn calls(pool: Pool, kept: &str) {
        let local = String::from("b");
        drop(Two::load(&pool, (kept, &local)).await);
        drop(Two::update_with(&pool, (kept, &local), |_| ()).await);
        drop(Two::find_by_b_and_c(&pool, kept, &local).await);
        drop(Views::get(&pool, (kept, &local)).await);
        drop(Views::add_views(&pool, (kept, &local), 1).await);
        drop(Views::add_views_many(&pool, [((kept, &*local), 1)]).await);
    }
}

/// Keys that are less visible than the model.
pub mod hidden {
    use super::{
        Counter, Fence, FindOrCreate, Idempotent, Lockable, Pool, Queue, QueueState, Versioned,
    };

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
    #[sqlx(transparent)]
    struct Id(i64);

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(super) struct In<T>(pub(super) T);

    impl<T: sqlx::Type<DB>, DB: sqlx::Database> sqlx::Type<DB> for In<T> {
        fn type_info() -> DB::TypeInfo {
            T::type_info()
        }
        fn compatible(found: &DB::TypeInfo) -> bool {
            T::compatible(found)
        }
    }
    impl<'q, T: sqlx::Encode<'q, DB>, DB: sqlx::Database> sqlx::Encode<'q, DB> for In<T> {
        fn encode_by_ref(
            &self,
            to: &mut DB::ArgumentBuffer,
        ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
            self.0.encode_by_ref(to)
        }
    }
    impl<'r, T: sqlx::Decode<'r, DB>, DB: sqlx::Database> sqlx::Decode<'r, DB> for In<T> {
        fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
            T::decode(value).map(In)
        }
    }

    /// Public, and its key is not.
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate)]
    #[rowlock(table = "documents", unique(tenant, r#type))]
    pub struct Document {
        #[rowlock(key)]
        id: Id,
        tenant: In<Id>,
        r#type: String,
        #[rowlock(version)]
        version: i64,
    }

    /// A key of several columns.
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, Counter)]
    #[rowlock(table = "counts", existing_rows)]
    pub struct Count {
        #[rowlock(key)]
        id: In<i64>,
        #[rowlock(key)]
        r#loop: String,
        #[rowlock(counter)]
        count: i64,
        #[rowlock(version)]
        version: i16,
    }

    /// A request.
    #[derive(Debug, sqlx::FromRow, Idempotent)]
    #[rowlock(table = "requests")]
    pub struct Request {
        #[rowlock(key)]
        key: Id,
        #[rowlock(fingerprint)]
        fingerprint: Vec<u8>,
        #[rowlock(outcome)]
        outcome: Option<String>,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        lease: Option<chrono::DateTime<chrono::Utc>>,
        #[rowlock(finished)]
        finished: Option<chrono::DateTime<chrono::Utc>>,
    }

    /// A job.
    #[derive(Debug, sqlx::FromRow, Queue)]
    #[rowlock(table = "jobs", backend(Sqlite))]
    pub struct Job {
        #[rowlock(key)]
        id: Id,
        #[rowlock(run_at)]
        run_at: chrono::DateTime<chrono::Utc>,
        #[rowlock(state)]
        state: QueueState,
        #[rowlock(attempts)]
        attempts: i16,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        lease: Option<chrono::DateTime<chrono::Utc>>,
    }

    /// Uses the methods.
    pub async fn calls(pool: Pool) -> Result<(), sqlx::Error> {
        drop(Document::load(&pool, Id(1)).await);
        drop(Document::find_by_tenant_and_type(&pool, In(Id(1)), "a").await);
        drop(Count::add_count(&pool, (In(1), "a"), 1).await);
        let totals = Count::add_count_many(&pool, [((In(1), "a"), 1)]).await;
        drop::<Result<Vec<((In<i64>, String), i64)>, _>>(totals);
        drop(
            Request::once(&pool, Id(1), &1, async |_| {
                Ok::<_, sqlx::Error>(String::new())
            })
            .await,
        );
        drop(Job::claim(&pool, 1).await);
        let mut tx = pool.begin().await?;
        drop(Document::lock(&mut tx, Id(1)).await);
        drop(Count::lock_many(&mut tx, [(In(1), "a"), (In(2), "b")]).await);
        Ok(())
    }
}

/// A model whose fields nobody reads.
mod written {
    use super::{Counter, FindOrCreate, Pool};

    #[derive(sqlx::FromRow, Counter)]
    #[rowlock(table = "hits")]
    struct Hits {
        #[rowlock(key)]
        page: i64,
        #[rowlock(counter)]
        hits: i64,
        #[rowlock(default)]
        since: i64,
    }

    #[derive(sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "names")]
    struct Name {
        #[rowlock(key, generated)]
        id: i64,
        #[rowlock(unique)]
        name: String,
    }

    pub(super) async fn calls(pool: Pool) {
        drop(Hits::add_hits(&pool, 1, 1).await);
        drop(Name::find_by_name(&pool, "a").await);
    }
}

/// What a row is created from.
mod new {
    use super::FindOrCreate;

    /// Neither `Debug` nor `Clone`.
    #[derive(PartialEq, sqlx::Type)]
    #[sqlx(transparent)]
    pub(super) struct Secret(String);

    #[derive(sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "secrets", new(derive(PartialEq)))]
    pub(super) struct Kept {
        #[rowlock(key, unique)]
        id: i64,
        secret: Secret,
    }

    #[derive(Debug, sqlx::FromRow, FindOrCreate)]
    #[rowlock(
        table = "tags",
        new = "TagDraft",
        new(derive(Debug, Clone, Default, serde::Deserialize))
    )]
    pub(super) struct Tag {
        #[rowlock(key, unique)]
        slug: String,
    }

    pub(super) fn shown() {
        let kept = || NewKept {
            id: 1,
            secret: Secret("password".into()),
        };
        assert!(kept() == kept());
        assert_eq!(format!("{:?}", kept()), "NewKept { .. }");
        let draft: TagDraft = serde_json::from_str(r#"{"slug": "rust"}"#).unwrap();
        assert_eq!(format!("{draft:?}"), r#"TagDraft { slug: "rust" }"#);
        assert_eq!(TagDraft::default().slug, "");
    }
}

#[test]
fn what_new_shows_and_a_model_in_a_function() {
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate)]
    #[rowlock(table = "locals", unique(name))]
    struct Local {
        #[rowlock(key)]
        id: Alias,
        name: String,
        #[rowlock(version)]
        version: i64,
    }
    type Alias = i64;

    new::shown();
    let local = Local {
        id: 1,
        name: String::new(),
        version: 0,
    };
    drop(local.edit());
    let _ = (two_texts::calls, hidden::calls, written::calls);
}
