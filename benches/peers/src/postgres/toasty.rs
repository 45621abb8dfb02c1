//! Toasty, on its own pool.

use toasty::Db;

use crate::harness::{CONNECTIONS, Peer};

#[derive(Debug, toasty::Model)]
#[table = "page_views"]
struct PageView {
    #[key]
    page: i64,
    #[default(0)]
    views: i64,
}

#[derive(Debug, toasty::Model)]
#[table = "documents"]
pub(crate) struct Document {
    #[key]
    id: i64,
    author_id: i64,
    reviewer_id: Option<i64>,
    title: String,
    body: String,
    language: String,
    published: bool,
    words: i32,
    #[version]
    lock_version: u64,
}

#[derive(Debug, toasty::Model)]
#[table = "tags"]
struct Tag {
    #[key]
    #[auto]
    id: i64,
    #[unique]
    name: String,
}

#[derive(Clone)]
pub(crate) struct Toasty(Db);

impl Toasty {
    pub(crate) async fn new(url: &str) -> Self {
        let db = Db::builder()
            .models(toasty::models!(PageView, Document, Tag))
            .max_pool_size(usize::try_from(CONNECTIONS).unwrap())
            .connect(url)
            .await;
        Self(db.unwrap())
    }

    fn db(&self) -> Db {
        self.0.clone()
    }
}

impl Peer for Toasty {
    type Document = Document;

    async fn add(&self, page: i64) -> i64 {
        let upsert = PageView::upsert_by_page(page).views(toasty::stmt::add(1));
        upsert.exec(&mut self.db()).await.unwrap().views
    }

    async fn load(&self, id: i64) -> Document {
        Document::get_by_id(&mut self.db(), &id).await.unwrap()
    }

    fn id(document: &Document) -> i64 {
        document.id
    }

    async fn update(&self, document: &mut Document) {
        let (author_id, reviewer_id) = (document.author_id, document.reviewer_id);
        let (title, body, language) = (
            document.title.clone(),
            document.body.clone(),
            document.language.clone(),
        );
        let (published, words) = (document.published, document.words + 1);
        document
            .update()
            .author_id(author_id)
            .reviewer_id(reviewer_id)
            .title(title)
            .body(body)
            .language(language)
            .published(published)
            .words(words)
            .exec(&mut self.db())
            .await
            .unwrap();
    }

    async fn find(&self, name: String) -> i64 {
        let tag = Tag::get_by_name(&mut self.db(), &name).await.unwrap();
        assert_eq!(tag.name, name);
        tag.id
    }
}
