//! What a queue has to have: where its states are, and what limits the running jobs.

use crate::derive::{must_be_a_time, report_missing};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{LedgerRole, Model, QueueRole, inside_option, is_bool, is_option, last_segment};
use crate::options::FieldOption;
use crate::sql::queue::{Per, Stored};

/// What limits the running jobs.
pub(super) fn per<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Per<'m>> {
    let per = model.columns.iter().find(|column| column.per.is_some());
    let sequence = model.columns.iter().find(|column| column.sequence);
    let slot = model.queue(|role| role == QueueRole::Slot);
    let max = per.and_then(|per| per.per).unwrap_or(1);
    if let (None, Some(alone)) = (per, sequence.or(slot)) {
        diag.error(
            &alone.ident,
            format_args!(
                "`{}` is about jobs that belong together, and no field says which do\n\
                 help: mark the field that says it with `#[rowlock(per)]`",
                alone.field
            ),
        );
    }
    let per = per?;
    if !model.backends.iter().all(|dialect| dialect.orders_times()) {
        for column in [Some(per), sequence].into_iter().flatten() {
            if is_time(&column.ty) {
                diag.error(
                    &column.ty,
                    format_args!(
                        "`{}` is a time, which SQLite stores as a text of one form or another: equal ones differ, and their order is that of the texts\n\
                         help: take a number or a text, or leave SQLite out: `#[rowlock(backend(Postgres))]`",
                        column.field
                    ),
                );
            }
        }
    }
    match (max, sequence, slot) {
        (_, Some(sequence), _) if is_option(&per.ty) => diag.error(
            &per.ty,
            format_args!(
                "`{}` can be NULL, and such a job has no place in the order of `{}`\n\
                 help: make the column NOT NULL, or leave out `sequence`",
                per.field, sequence.field
            ),
        ),
        (2.., Some(sequence), _) => diag.error(
            &sequence.ident,
            format_args!(
                "`{}` is a strict order, and {max} jobs of one `{}` may be running at a time\n\
                 help: leave out `max`, or `sequence`",
                sequence.field, per.field
            ),
        ),
        (2.., None, None) if !attempted.has(FieldOption::Slot.name()) => {
            report_missing(model, FieldOption::Slot, diag);
        }
        (..2, _, Some(slot)) => diag.error(
            &slot.ident,
            format_args!(
                "`{}` numbers the running jobs of one `{}`, and there is one at a time\n\
                 help: leave it out, or allow more: `#[rowlock(per(max = 3))]`",
                slot.field, per.field
            ),
        ),
        _ => {}
    }
    Some(Per {
        column: per,
        max,
        slot,
        sequence,
    })
}

/// As far as the name of a type tells.
fn is_time(ty: &syn::Type) -> bool {
    const TIMES: &[&str] = &[
        "DateTime",
        "NaiveDate",
        "NaiveDateTime",
        "NaiveTime",
        "OffsetDateTime",
        "PrimitiveDateTime",
    ];
    let inner = inside_option(ty).unwrap_or(ty);
    last_segment(inner).is_some_and(|name| TIMES.contains(&name.as_str()))
}

/// Where the states are: in a column of theirs, or in the times of the ends.
pub(super) fn states<'m>(
    model: &'m Model,
    attempted: &Attempted,
    diag: &Diag,
) -> Option<Stored<'m>> {
    let state = model.queue(|role| role == QueueRole::State);
    let dead = model.queue(|role| role == QueueRole::Dead);
    match (state, dead) {
        (Some(state), Some(dead)) => diag.error(
            &dead.ident,
            format_args!(
                "`{}` says when a job was given up, and `{}` has its state\nhelp: keep one of them; the time of each end is `#[rowlock(finished)]`",
                dead.field, state.field
            ),
        ),
        (Some(state), None) => {
            if let Some(finished) = model.ledger(LedgerRole::Finished) {
                must_be_a_time(finished, diag);
            }
            return Some(Stored::Column(state));
        }
        (None, None) if !attempted.has(FieldOption::State.name()) => {
            report_missing(model, FieldOption::State, diag);
        }
        (None, Some(_)) if !ends(model) && !attempted.has(FieldOption::Finished.name()) => {
            report_missing(model, FieldOption::Finished, diag);
        }
        (None, Some(dead)) => {
            for end in model.ledger(LedgerRole::Finished).into_iter().chain([dead]) {
                if inside_option(&end.ty).is_some_and(is_bool) {
                    diag.error(
                        &end.ty,
                        format_args!(
                            "`{}` says that a job has ended, and NULL says neither yes nor no\n\
                             help: make the column NOT NULL DEFAULT false and write `bool`",
                            end.field
                        ),
                    );
                }
            }
            if !is_option(&dead.ty) && !is_bool(&dead.ty) {
                diag.error(
                    &dead.ty,
                    format_args!(
                        "`{}` is when a job was given up, and most never are\n\
                         help: make the column nullable and write `Option<...>`",
                        dead.field
                    ),
                );
            }
            return Some(Stored::Times { dead });
        }
        (None, None) => {}
    }
    None
}

/// Whether a job that is done can be told from others without a state.
fn ends(model: &Model) -> bool {
    model.deletes_done || model.ledger(LedgerRole::Finished).is_some()
}
