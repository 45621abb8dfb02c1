//! The example `checked`: its migrations make what its file says, and without one of them it does not build. The compiler says what the docs of
//! `rowlock::schema` quote.

use std::path::Path;

use rowlock::schema::{check_file, snapshot};
use rowlock_tests::sqlite;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/examples/checked");
const DOCS: &str = include_str!("../../runtime/docs/schema.md");
const FILE: &str = "examples/checked/rowlock.schema.json";

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(EXAMPLE).join(name)).unwrap()
}

fn migrations() -> [String; 2] {
    ["migrations/1_tags.sql", "migrations/2_key.sql"].map(read)
}

/// The example's model, with this file.
fn model(name: &str) -> String {
    let file = format!("tmp/checked/{name}.json");
    let model = read("model.rs").replace(FILE, &file);
    assert!(model.contains(&file), "{model}");
    model
}

/// The message in the docs, as it is about that program.
fn quoted(path: &Path) -> String {
    let blocks = DOCS.split("```text\n").skip(1);
    let mut texts = blocks.map(|block| block.split("```").next().unwrap());
    let message = texts
        .find(|text| text.starts_with("error: no unique index"))
        .unwrap();
    message.replace("src/model.rs", &path.display().to_string())
}

#[tokio::test]
async fn a_migration_that_drops_the_index_breaks_the_build() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checked");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let [tags, key] = migrations();

    let whole = sqlite::database(&format!("{tags}{key}")).await;
    check_file(&whole.pool, Path::new(EXAMPLE).join("rowlock.schema.json"))
        .await
        .unwrap();
    let without = sqlite::database(&tags).await;
    for (name, database) in [("whole", &whole), ("without", &without)] {
        let file = snapshot(&database.pool).await.unwrap().to_json();
        std::fs::write(directory.join(format!("{name}.json")), file).unwrap();
    }

    // One program, where the model is there twice: only a type check, for which the dependencies are those of `tests/ui`.
    let whole = model("whole").replace("//!", "//");
    let path = directory.join("program.rs");
    let program = format!(
        "{}\nmod whole {{\n{whole}}}\n\nfn main() {{}}\n",
        model("without")
    );
    std::fs::write(&path, program).unwrap();
    std::fs::write(path.with_extension("stderr"), quoted(&path)).unwrap();
    let compile = move || trybuild::TestCases::new().compile_fail(path);
    tokio::task::spawn_blocking(compile).await.unwrap();
}
