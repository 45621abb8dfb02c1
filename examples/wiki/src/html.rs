//! What people see.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rowlock::queue::QueueStats;

use crate::http::Problem;
use crate::merge::{Merge, Outcome};
use crate::metrics::{Line, SAMPLES};
use crate::model::Page;

const STYLE: &str = include_str!("style.css");

fn layout(title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                nav { a href="/" { "Pages" } a href="/new" { "New page" } a href="/live" { "Live" } }
                h1 { (title) }
                (content)
            }
        }
    }
}

pub fn index(title: &str, pages: &[(String, String)], report: &[(String, i64)]) -> Markup {
    layout(
        title,
        html! {
            ul { @for (slug, title) in pages { li { a href={ "/pages/" (slug) } { (title) } } } }
            @if !report.is_empty() {
                h2 { "Most edited" }
                ol { @for (slug, edits) in report { li { a href={ "/pages/" (slug) } { (slug) } ": " (edits) } } }
            }
        },
    )
}

pub fn page(page: &Page, views: i64) -> Markup {
    layout(
        &page.title,
        html! {
            p.body #body { (page.body) }
            p {
                @for tag in page.tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
                    a.tag href={ "/tags/" (utf8_percent_encode(&tag.to_lowercase(), NON_ALPHANUMERIC)) } { (tag) }
                }
            }
            p.small { "Version " (page.lock_version) ", seen " (views) " times" }
            p {
                a #edit href={ "/pages/" (page.slug) "/edit" } { "Edit" } " · "
                a href={ "/pages/" (page.slug) "/links" } { "Check its links" }
            }
            (watch_form(page))
            (delete_form(page))
        },
    )
}

fn watch_form(page: &Page) -> Markup {
    html! {
        form method="post" action={ "/pages/" (page.slug) "/watch" } {
            input name="name" placeholder="your name" required;
            button #watch { "Tell me of changes" }
        }
    }
}

fn delete_form(page: &Page) -> Markup {
    html! {
        form method="post" action={ "/pages/" (page.slug) "/delete" } {
            (seen(page))
            input name="author" placeholder="your name" required;
            button #delete { "Delete this page" }
        }
    }
}

/// Which version the form is about: the whole trick of an optimistic lock.
fn seen(page: &Page) -> Markup {
    html! {
        input type="hidden" name="id" value=(page.id);
        input type="hidden" name="version" value=(page.lock_version);
    }
}

pub fn editor(page: Option<&Page>) -> Markup {
    let title = page.map_or("New page".to_owned(), |page| format!("Edit {}", page.title));
    let action = page.map_or("/new".to_owned(), |page| {
        format!("/pages/{}/edit", page.slug)
    });
    let text = |of: fn(&Page) -> &str| page.map_or("", of);
    layout(
        &title,
        html! {
            form.editor method="post" action=(action) {
                @match page {
                    Some(page) => (seen(page)),
                    None => label { "Name in the address" input name="slug" pattern="[a-z0-9-]+" required; },
                }
                label { "Title" input name="title" value=(text(|page| &page.title)) required; }
                label { "Tags" input name="tags" value=(text(|page| &page.tags)); }
                label { "Text" (body(text(|page| &page.body))) }
                (author(""))
                button #save { "Save" }
            }
        },
    )
}

/// HTML leaves out a first line that is empty; so that it is not one of the text's, there is one more.
fn body(text: &str) -> Markup {
    html! { textarea name="body" rows="8" { "\n" (text) } }
}

fn author(name: &str) -> Markup {
    html! { label { "Your name" input name="author" value=(name) required; } }
}

/// Three columns for each field, and below them what will be saved.
pub fn conflict(current: &Page, fields: &[Merge<'_>], name: &str) -> Markup {
    layout(
        "Somebody else was faster",
        html! {
            p {
                "Your edit is not saved yet: the page has been changed since you opened it. "
                "What only one of you changed is merged below. Decide what both of you changed."
            }
            form method="post" action={ "/pages/" (current.slug) "/edit" } {
                (seen(current))
                @for merge in fields { (field(merge)) }
                (author(name))
                button #save { "Save the merge" }
            }
        },
    )
}

fn field(merge: &Merge<'_>) -> Markup {
    let (class, told) = match merge.outcome {
        Outcome::Same => ("same", "unchanged"),
        Outcome::Mine => ("merged", "merged: only you changed it"),
        Outcome::Theirs => ("merged", "merged: only they changed it"),
        Outcome::Overlap => ("overlap", "both of you changed it"),
    };
    html! {
        fieldset class=(class) id={ "field-" (merge.field) } {
            legend { (merge.field) ": " (told) }
            @if merge.outcome != Outcome::Same {
                div.columns {
                    div { h3 { "Theirs" } p.body { (merge.theirs) } }
                    div { h3 { "Mine" } p.body { (merge.mine) } }
                    div { h3 { "Before" } p.body { (merge.base) } }
                }
            }
            @if merge.field == "body" { (body(merge.proposal())) }
            @else { input name=(merge.field) value=(merge.proposal()); }
        }
    }
}

pub fn gone(mine: &Page, name: &str) -> Markup {
    layout(
        "This page was deleted",
        html! {
            p { "Somebody deleted it while you were writing. Here is your text; you can make the page anew." }
            form.editor method="post" action="/new" {
                input type="hidden" name="slug" value=(mine.slug);
                label { "Title" input name="title" value=(mine.title) required; }
                label { "Tags" input name="tags" value=(mine.tags); }
                label { "Text" (body(&mine.body)) }
                (author(name))
                button #save { "Make it anew" }
            }
        },
    )
}

pub fn links(page: &Page, links: &[(String, Result<u16, String>)]) -> Markup {
    layout(
        &format!("Links of {}", page.title),
        html! {
            table { @for (link, outcome) in links {
                tr { td { (link) } td { @match outcome { Ok(status) => (status), Err(error) => (error) } } }
            } }
        },
    )
}

pub fn inbox(name: &str, notices: &[(String, i64, String)]) -> Markup {
    layout(
        &format!("Inbox of {name}"),
        html! {
            ul { @for (slug, version, text) in notices {
                li { a href={ "/pages/" (slug) } { (text) } " (version " (version) ")" }
            } }
        },
    )
}

pub fn problem(problem: &Problem) -> Markup {
    layout(problem.title(), html! { p { (problem.detail) } })
}

/// The page asks for itself every two seconds.
pub fn live(lines: &[Line], queue: &QueueStats) -> Markup {
    layout(
        "Live",
        html! {
            meta http-equiv="refresh" content="2";
            table {
                tr { th { "since the start" } th { } th { "in each of the last " (SAMPLES) " seconds" } }
                @for line in lines {
                    tr { td { (line.name) } td.number { (line.total) } td { (chart(&line.growth)) } }
                }
            }
            p { "Notices: " (queue.ready) " ready, " (queue.running) " running, " (queue.dead) " dead" }
        },
    )
}

/// Bars, the newest on the right. The highest one is as high as the chart.
fn chart(growth: &[u64]) -> Markup {
    let highest = growth.iter().copied().max().unwrap_or(0).max(1);
    let height = |n: u64| n * 30 / highest;
    let free = SAMPLES - growth.len();
    html! {
        svg width=(SAMPLES * 5) height="30" {
            @for (at, &n) in (free..).zip(growth) {
                rect x=(at * 5) y=(30 - height(n)) width="4" height=(height(n)) {}
            }
        }
        @if highest > 1 { span.small { " up to " (highest) } }
    }
}
