//! What PostgreSQL does not do with the rows of a partitioned table, and says only when it is asked to.

use rowlock::schema::{Rule, verify};

use super::of_its_own;

/// In partitions.
#[derive(
    Clone, Debug, sqlx::FromRow, rowlock::FindOrCreate, rowlock::Versioned, rowlock::Guarded,
)]
#[rowlock(table = "parts", unique(slug), backend(Postgres))]
struct Partitioned {
    #[rowlock(key)]
    slug: String,
    #[rowlock(default)]
    words: i64,
    text: String,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, Debug, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "parts_by_xmin", backend(Postgres))]
struct PartitionedByXmin {
    #[rowlock(key)]
    slug: String,
    #[rowlock(version)]
    version: rowlock::Xmin,
}

#[tokio::test]
async fn what_fails_on_a_partitioned_table_is_a_note() {
    let pool = of_its_own(
        "CREATE TABLE parts (slug text PRIMARY KEY, words bigint NOT NULL DEFAULT 0, text text NOT NULL, lock_version bigint NOT NULL) PARTITION BY HASH (slug);
         CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         CREATE TABLE parts_by_xmin (slug text PRIMARY KEY) PARTITION BY HASH (slug);
         CREATE TABLE parts_by_xmin_0 PARTITION OF parts_by_xmin FOR VALUES WITH (MODULUS 1, REMAINDER 0);",
    )
    .await;
    let models = rowlock::models![Partitioned, PartitionedByXmin];
    let report = verify(&pool, models).await.unwrap();
    let findings = report
        .findings()
        .filter(|(_, finding)| finding.rule == Rule::Statement);
    let said: Vec<&str> = findings
        .map(|(_, finding)| finding.message.as_str())
        .collect();
    assert_eq!(
        said,
        [
            "`update_or_create` and `upsert_if` fail on `parts`, which is partitioned",
            "`insert`, and an UPDATE that moves a row to another partition, fail on `parts_by_xmin`, which is partitioned",
        ],
        "{report}"
    );

    // So it is, and of nothing else.
    let new = |slug: &str| NewPartitioned {
        slug: slug.to_owned(),
        text: String::new(),
    };
    let refused =
        |error: &dyn std::fmt::Display| assert!(error.to_string().contains("0A000"), "{error}");
    refused(
        &Partitioned::update_or_create(&pool, new("a"))
            .await
            .unwrap_err(),
    );
    let condition = Partitioned::WORDS.ge(0);
    refused(
        &Partitioned::upsert_if(&pool, new("a"), condition)
            .await
            .unwrap_err(),
    );
    Partitioned::create(&pool, new("a")).await.unwrap();
    Partitioned::find_or_create(&pool, new("a")).await.unwrap();
    Partitioned::upsert(&pool, new("a")).await.unwrap();
    for made in Partitioned::upsert_many(&pool, [new("a"), new("b")]).await {
        made.unwrap();
    }
    for found in Partitioned::find_or_create_many(&pool, [new("a"), new("c")]).await {
        found.unwrap();
    }
    let row = Partitioned::load(&pool, "a")
        .await
        .unwrap()
        .update(&pool)
        .await
        .unwrap();
    let other = Partitioned {
        slug: "d".to_owned(),
        ..row.clone()
    };
    other.insert(&pool).await.unwrap();
    row.delete(&pool).await.unwrap();

    let row = PartitionedByXmin {
        slug: "a".to_owned(),
        version: Default::default(),
    };
    refused(&row.clone().insert(&pool).await.unwrap_err());
    sqlx::raw_sql("INSERT INTO parts_by_xmin VALUES ('a')")
        .execute(&pool)
        .await
        .unwrap();
    let row = PartitionedByXmin::load(&pool, "a").await.unwrap();
    row.update(&pool)
        .await
        .unwrap()
        .delete(&pool)
        .await
        .unwrap();
}
