//! Names that have to be quoted, in SQL or in Rust, on a real database; and names that sqlx's derive makes.

#![deny(warnings)]

use rowlock::{Counter, FindOrCreate, Guarded, Lockable, Versioned};

#[derive(
    Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate, Lockable, Guarded,
)]
#[rowlock(table = "order", unique(r#type), existing_rows)]
struct Order {
    #[rowlock(key, generated)]
    id: i64,
    r#type: String,
    #[sqlx(rename = "select")]
    chosen: i64,
    #[sqlx(rename = "a \"quoted\" # name")]
    quoted: String,
    #[rowlock(counter)]
    r#loop: i64,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate, Lockable)]
#[rowlock(table = "people", new = "PersonDraft")]
#[sqlx(rename_all = "camelCase")]
struct Person {
    #[rowlock(key, unique)]
    full_name: String,
    #[rowlock(unique)]
    mail_address2: String,
    #[sqlx(json)]
    nick_names: Vec<String>,
    #[sqlx(skip)]
    cached: u64,
    #[rowlock(version)]
    lock_version: i16,
}

/// A model whose column has the name that sqlx reads, or loading it fails.
macro_rules! renamed {
    ($db:expr, $rename_all:literal, $column:literal) => {{
        #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable)]
        #[rowlock(table = "renamed")]
        #[sqlx(rename_all = $rename_all)]
        struct Renamed {
            #[rowlock(key)]
            mail_address2: i64,
            #[rowlock(version)]
            #[sqlx(rename = "Version")]
            version: i64,
        }
        let ddl = concat!(
            "DROP TABLE IF EXISTS renamed; CREATE TABLE renamed (\"",
            $column,
            "\" bigint, \"Version\" bigint);
            INSERT INTO renamed VALUES (1, 2)"
        );
        sqlx::raw_sql(ddl).execute(&mut *$db).await.unwrap();
        let row = Renamed::load(&mut *$db, 1).await.unwrap();
        assert_eq!(row.update(&mut *$db).await.unwrap().version, 3);
        let mut tx = sqlx::Connection::begin(&mut *$db).await.unwrap();
        let mut locked = Renamed::lock(&mut tx, 1).await.unwrap();
        locked.save(&mut tx).await.unwrap();
        assert_eq!(locked.version, 4);
        tx.commit().await.unwrap();
    }};
}

#[tokio::test]
async fn names_that_have_to_be_quoted() {
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect("sqlite::memory:")
        .await
        .unwrap();
    sqlx::raw_sql(
        r##"CREATE TABLE "order" (id integer PRIMARY KEY, type text NOT NULL UNIQUE, "select" bigint NOT NULL,
            "a ""quoted"" # name" text NOT NULL, loop bigint NOT NULL, lock_version bigint NOT NULL);
        CREATE TABLE people ("fullName" text PRIMARY KEY, "mailAddress2" text NOT NULL UNIQUE,
            "nickNames" text NOT NULL, "lockVersion" int NOT NULL)"##,
    )
    .execute(&mut db)
    .await
    .unwrap();

    let new = NewOrder {
        r#type: "a".to_owned(),
        chosen: 1,
        quoted: "b".to_owned(),
    };
    let order = Order::find_or_create(&mut db, new)
        .await
        .unwrap()
        .into_inner();
    let order = order.update(&mut db).await.unwrap();
    let mut edit = order.edit();
    edit.quoted.push('!');
    let order = edit.save(&mut db).await.unwrap();
    assert_eq!(Order::add_loop(&mut db, order.id, 3).await.unwrap(), 3);
    assert_eq!(
        Order::add_loop_many(&mut db, [(order.id, 3)])
            .await
            .unwrap(),
        [(order.id, 6)]
    );
    let found = Order::find_by_type(&mut db, "a").await.unwrap().unwrap();
    assert_eq!((found.quoted.as_str(), found.lock_version), ("b!", 2));

    let named = Order::TYPE
        .eq("a")
        .and(Order::CHOSEN.eq(1))
        .and(Order::LOOP.lt(7));
    let order = Order::update_if(&mut db, order.id, named, |row| row.set(Order::QUOTED, "b!"));
    let order = order.await.unwrap();
    assert_eq!(order.lock_version, 3);

    let mut tx = sqlx::Connection::begin(&mut db).await.unwrap();
    let mut locked = Order::lock(&mut tx, order.id).await.unwrap();
    locked.r#type.push('b');
    locked.quoted.clear();
    locked.save(&mut tx).await.unwrap();
    let many = Order::lock_many(&mut tx, [order.id]).await.unwrap();
    assert_eq!(many, [locked]);
    assert_eq!(
        (
            many[0].r#type.as_str(),
            many[0].r#loop,
            many[0].lock_version
        ),
        ("ab", 6, 4)
    );
    tx.commit().await.unwrap();

    let new = PersonDraft {
        full_name: "Ada".to_owned(),
        mail_address2: "ada@example.org".to_owned(),
        nick_names: vec!["A".to_owned()],
    };
    let ada = Person::upsert_by_full_name(&mut db, new.clone())
        .await
        .unwrap();
    assert_eq!(ada.nick_names, ["A"]);
    let ada = ada.update(&mut db).await.unwrap();
    let found = Person::find_or_create_by_mail_address2(&mut db, new)
        .await
        .unwrap();
    assert_eq!(ada, *found);
    assert!(Person::load(&mut db, "Ada").await.is_ok());

    let mut tx = sqlx::Connection::begin(&mut db).await.unwrap();
    let mut ada = Person::lock(&mut tx, "Ada").await.unwrap();
    ada.nick_names.push("L".to_owned());
    ada.save(&mut tx).await.unwrap();
    assert_eq!(
        Person::lock_many(&mut tx, ["Ada"]).await.unwrap()[0].nick_names,
        ["A", "L"]
    );
    tx.commit().await.unwrap();

    renamed!(&mut db, "lowercase", "mail_address2");
    renamed!(&mut db, "snake_case", "mail_address2");
    renamed!(&mut db, "UPPERCASE", "MAIL_ADDRESS2");
    renamed!(&mut db, "SCREAMING_SNAKE_CASE", "MAIL_ADDRESS2");
    renamed!(&mut db, "kebab-case", "mail-address2");
    renamed!(&mut db, "camelCase", "mailAddress2");
    renamed!(&mut db, "PascalCase", "MailAddress2");
}
