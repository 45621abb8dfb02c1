//! SeaORM, on a pool of sqlx.

use sea_orm::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ExprTrait, IntoActiveModel, Set, SqlxPostgresConnector};

use crate::harness::Peer;

mod page_view {
    use sea_orm::prelude::*;

    #[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "page_views")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) page: i64,
        pub(crate) views: i64,
    }

    #[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod document {
    use sea_orm::prelude::*;

    #[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "documents")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        pub(crate) author_id: i64,
        pub(crate) reviewer_id: Option<i64>,
        pub(crate) title: String,
        pub(crate) body: String,
        pub(crate) language: String,
        pub(crate) published: bool,
        pub(crate) words: i32,
        pub(crate) lock_version: i64,
    }

    #[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod tag {
    use sea_orm::prelude::*;

    #[derive(Debug, Clone, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "tags")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i64,
        #[sea_orm(unique)]
        pub(crate) name: String,
    }

    #[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[derive(Clone)]
pub(crate) struct SeaOrm(DatabaseConnection);

impl SeaOrm {
    pub(crate) fn new(pool: sqlx::PgPool) -> Self {
        Self(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
    }
}

impl Peer for SeaOrm {
    type Document = document::Model;

    async fn add(&self, page: i64) -> i64 {
        let row = page_view::ActiveModel {
            page: Set(page),
            views: Set(1),
        };
        let sum = Expr::col((page_view::Entity, page_view::Column::Views)).add(1_i64);
        let on_conflict = OnConflict::column(page_view::Column::Page)
            .value(page_view::Column::Views, sum)
            .to_owned();
        let row = page_view::Entity::insert(row).on_conflict(on_conflict);
        row.exec_with_returning(&self.0).await.unwrap().views
    }

    async fn load(&self, id: i64) -> document::Model {
        let row = document::Entity::find_by_id(id).one(&self.0).await;
        row.unwrap().unwrap()
    }

    fn id(document: &document::Model) -> i64 {
        document.id
    }

    async fn update(&self, document: &mut document::Model) {
        let known = document.lock_version;
        document.words += 1;
        document.lock_version += 1;
        let mut columns = document.clone().into_active_model().reset_all();
        columns.not_set(document::Column::Id);
        let rows = document::Entity::update_many()
            .set(columns)
            .filter(document::Column::Id.eq(document.id))
            .filter(document::Column::LockVersion.eq(known))
            .exec(&self.0)
            .await
            .unwrap();
        assert_eq!(rows.rows_affected, 1);
    }

    async fn find(&self, name: String) -> i64 {
        let row = tag::Entity::find()
            .filter(tag::Column::Name.eq(&name))
            .one(&self.0)
            .await;
        let tag = row.unwrap().unwrap();
        assert_eq!(tag.name, name);
        tag.id
    }
}
