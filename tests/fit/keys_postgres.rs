//! `nulls_not_distinct`, which PostgreSQL has since 15.

use rowlock::FindOrCreate;
use sqlx::Executor;

use super::{Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(
    table = "digests",
    backend(Postgres),
    unique(name, digest, part, nulls_not_distinct)
)]
struct Digest {
    name: String,
    digest: Option<String>,
    part: Option<i64>,
    uses: i64,
}

const DIGESTS: &str =
    "CREATE TABLE digests (name text NOT NULL, digest text, part bigint, uses bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (name, digest, part))";

fn digest(digest: Option<&str>, part: Option<i64>) -> NewDigest {
    NewDigest {
        name: "a".to_owned(),
        digest: digest.map(str::to_owned),
        part,
        uses: 1,
    }
}

async fn find(pool: &Pool, of: NewDigest) -> Option<Digest> {
    let found = Digest::find_by_name_and_digest_and_part(pool, &of.name, of.digest, of.part);
    found.await.unwrap()
}

#[tokio::test]
async fn nulls_are_equal_where_the_index_says_so() {
    let database = database(DIGESTS).await;
    let pool = &database.pool;
    for (text, part) in [
        (None, None),
        (Some("x"), None),
        (None, Some(1)),
        (Some("x"), Some(1)),
    ] {
        assert_eq!(find(pool, digest(text, part)).await, None);
        let created = Digest::find_or_create(pool, digest(text, part))
            .await
            .unwrap();
        assert!(created.is_created());
        let found = Digest::find_or_create(pool, digest(text, part))
            .await
            .unwrap();
        assert!(!found.is_created());
        assert_eq!(
            Digest::create(pool, digest(text, part)).await.unwrap(),
            None
        );
        let told = Digest::update_or_create(pool, digest(text, part))
            .await
            .unwrap();
        assert!(!told.is_created());
        assert_eq!(
            find(pool, digest(text, part)).await,
            Some(told.into_inner())
        );
    }
}

/// IS NOT DISTINCT FROM would read the whole table.
#[tokio::test]
async fn a_lookup_uses_the_index() {
    let database = database(DIGESTS).await;
    let pool = &database.pool;
    let fill = "INSERT INTO digests SELECT 'a', n::text, n, 1 FROM generate_series(1, 10000) AS n; ANALYZE digests";
    pool.execute(sqlx::raw_sql(fill)).await.unwrap();
    let plan = async |condition: &str| {
        let sql = format!(
            "PREPARE lookup (text, text, bigint) AS SELECT * FROM digests WHERE name = $1 AND {condition};
             SET plan_cache_mode = force_generic_plan; EXPLAIN EXECUTE lookup ('a', '7', 7)"
        );
        let mut connection = pool.acquire().await.unwrap();
        let rows = connection
            .fetch_all(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
            .await
            .unwrap();
        let lines = rows.iter().map(|row| sqlx::Row::get::<String, _>(row, 0));
        let plan = lines.collect::<Vec<_>>().join("\n");
        connection
            .execute(sqlx::raw_sql("DEALLOCATE lookup; RESET plan_cache_mode"))
            .await
            .unwrap();
        plan
    };
    let ours = plan(
        "(digest = $2 OR digest IS NULL AND $2 IS NULL) AND (part = $3 OR part IS NULL AND $3 IS NULL)",
    );
    let ours = ours.await;
    assert!(ours.contains("Index Cond"), "{ours}");
    assert!(!ours.contains("Seq Scan"), "{ours}");
}
