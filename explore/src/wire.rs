//! The messages of PostgreSQL's protocol 3: where each ends, what a client asks, what the server answers.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::Message;

/// Finds the messages of one client in bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: BytesMut,
    /// Whether messages have a type byte. A client's first has none.
    typed: bool,
}

/// A message of a client.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The type byte; 0 where the protocol has none, which is how a connection begins.
    pub(crate) kind: u8,
    /// All of it, as it came.
    pub(crate) bytes: Bytes,
}

impl Frame {
    /// What follows the type and the length.
    fn body(&self) -> Bytes {
        self.bytes.slice(if self.kind == 0 { 4 } else { 5 }..)
    }

    /// The number that a first message begins with: the version of the protocol, or one of the requests below.
    pub(crate) fn code(&self) -> u32 {
        self.body().try_get_u32().unwrap_or(0)
    }
}

/// A first message which asks for TLS.
pub(crate) const SSL_REQUEST: u32 = 80_877_103;
/// A first message which asks for encryption by GSSAPI.
pub(crate) const GSS_REQUEST: u32 = 80_877_104;
/// A first message which asks to cancel a statement of another connection.
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;

impl Frames {
    /// What has come.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next message, if all of it has come.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame>> {
        let type_len = usize::from(self.typed);
        let Some(mut length) = self.bytes.get(type_len..type_len + 4) else {
            return Ok(None);
        };
        let length = length.get_u32() as usize;
        if length < 4 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message shorter than its length",
            ));
        }
        if self.bytes.len() < type_len + length {
            return Ok(None);
        }
        let bytes = self.bytes.split_to(type_len + length).freeze();
        let kind = if self.typed { bytes[0] } else { 0 };
        let frame = Frame { kind, bytes };
        // A refused request for encryption is followed by another first message.
        self.typed |= !matches!(frame.code(), SSL_REQUEST | GSS_REQUEST);
        Ok(Some(frame))
    }
}

/// A value that was bound to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Param {
    /// Its type, 0 where the client leaves it to the server.
    pub(crate) oid: u32,
    /// Whether it is in the type's binary format, else in its text.
    pub(crate) binary: bool,
    /// NULL is `None`.
    pub(crate) value: Option<Bytes>,
}

/// A statement that a client executes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: Arc<str>,
    pub(crate) params: Vec<Param>,
    /// The columns of its rows, where the client has asked for them before.
    pub(crate) columns: Vec<Column>,
    /// Which columns come in binary: none, all of them after one `true`, or each as it says.
    pub(crate) binary: Vec<bool>,
}

impl Statement {
    /// One that binds nothing.
    pub(crate) fn of(sql: Arc<str>) -> Self {
        Self {
            sql,
            ..Self::default()
        }
    }

    /// Whether the value of this column comes in binary.
    pub(crate) fn is_binary(&self, column: usize) -> bool {
        if self.binary.len() == 1 {
            self.binary[0]
        } else {
            self.binary.get(column).is_some_and(|&binary| binary)
        }
    }
}

/// What a client sends before it waits for an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cycle {
    /// All of it, as it came.
    pub(crate) bytes: BytesMut,
    /// What it executes.
    pub(crate) statements: Vec<Statement>,
    /// What it prepares: name and text.
    pub(crate) prepares: Vec<(Bytes, Arc<str>)>,
    /// The names of the prepared statements that it executes.
    pub(crate) uses: Vec<Bytes>,
    /// The names of those that it has described to it.
    pub(crate) describes: Vec<Bytes>,
    /// Whether it ends with a Flush: it is not complete, and waits for an answer all the same.
    pub(crate) flushed: bool,
}

#[derive(Clone, Debug, Default)]
struct Prepared {
    sql: Arc<str>,
    params: Vec<u32>,
    columns: Vec<Column>,
}

/// What one client has prepared and bound, and the cycle that it is about to send.
#[derive(Debug, Default)]
pub(crate) struct Client {
    prepared: HashMap<Bytes, Prepared>,
    portals: HashMap<Bytes, (Bytes, Statement)>,
    cycle: Cycle,
}

impl Client {
    /// Takes the next message; a cycle if it completes one.
    pub(crate) fn take(&mut self, frame: &Frame) -> io::Result<Option<Cycle>> {
        self.cycle.bytes.extend_from_slice(&frame.bytes);
        let mut body = frame.body();
        match frame.kind {
            b'Q' => {
                let sql = text(&mut body)?;
                self.cycle.statements.push(Statement::of(sql));
                return Ok(Some(std::mem::take(&mut self.cycle)));
            }
            b'P' => {
                let (name, sql) = (name(&mut body)?, text(&mut body)?);
                let params = (0..body.try_get_u16().map_err(short)?)
                    .map(|_| body.try_get_u32().map_err(short));
                let params = params.collect::<io::Result<_>>()?;
                self.cycle.prepares.push((name.clone(), Arc::clone(&sql)));
                let columns = Vec::new();
                self.prepared.insert(
                    name,
                    Prepared {
                        sql,
                        params,
                        columns,
                    },
                );
            }
            b'D' if body.first() == Some(&b'S') => {
                body.advance(1);
                self.cycle.describes.push(name(&mut body)?);
            }
            b'B' => {
                let (portal, name) = (name(&mut body)?, name(&mut body)?);
                let formats = numbers(&mut body)?;
                let Prepared {
                    sql,
                    params: oids,
                    columns,
                } = self
                    .prepared
                    .get(&name)
                    .cloned()
                    // By PREPARE, whose text is another statement's.
                    .unwrap_or_else(|| Prepared {
                        sql: "(a statement that was prepared by PREPARE)".into(),
                        ..Prepared::default()
                    });
                let mut params = Vec::new();
                for at in 0..usize::from(body.try_get_u16().map_err(short)?) {
                    let length = body.try_get_i32().map_err(short)?;
                    let value = match usize::try_from(length) {
                        Ok(length) if length > body.len() => return Err(cut_short()),
                        Ok(length) => Some(body.split_to(length)),
                        Err(_) => None,
                    };
                    let format = if formats.len() == 1 {
                        formats.first()
                    } else {
                        formats.get(at)
                    };
                    let (oid, binary) = (oids.get(at).copied().unwrap_or(0), format == Some(&1));
                    params.push(Param { oid, binary, value });
                }
                let binary = numbers(&mut body)?
                    .into_iter()
                    .map(|format| format == 1)
                    .collect();
                self.portals.insert(
                    portal,
                    (
                        name,
                        Statement {
                            sql,
                            params,
                            columns,
                            binary,
                        },
                    ),
                );
            }
            b'E' => {
                if let Some((name, statement)) = self.portals.get(&name(&mut body)?) {
                    self.cycle.uses.push(name.clone());
                    self.cycle.statements.push(statement.clone());
                }
            }
            // Whatever it calls is in no text.
            b'F' => {
                self.cycle
                    .statements
                    .push(Statement::of("(a function call of the protocol)".into()));
                return Ok(Some(std::mem::take(&mut self.cycle)));
            }
            b'S' => return Ok(Some(std::mem::take(&mut self.cycle))),
            b'H' => {
                self.cycle.flushed = true;
                return Ok(Some(std::mem::take(&mut self.cycle)));
            }
            _ => {}
        }
        Ok(None)
    }

    /// What the server has said of a statement.
    pub(crate) fn described(&mut self, name: &Bytes, params: Vec<u32>, columns: Vec<Column>) {
        if let Some(prepared) = self.prepared.get_mut(name) {
            (prepared.params, prepared.columns) = (params, columns);
        }
    }
}

fn short(_: bytes::TryGetError) -> io::Error {
    cut_short()
}

fn cut_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a message ends before its contents",
    )
}

fn name(body: &mut Bytes) -> io::Result<Bytes> {
    let end = body
        .iter()
        .position(|&byte| byte == 0)
        .ok_or_else(cut_short)?;
    let name = body.split_to(end);
    body.advance(1);
    Ok(name)
}

fn text(body: &mut Bytes) -> io::Result<Arc<str>> {
    name(body).map(|name| String::from_utf8_lossy(&name).into())
}

fn numbers(body: &mut Bytes) -> io::Result<Vec<u16>> {
    let count = body.try_get_u16().map_err(short)?;
    (0..count)
        .map(|_| body.try_get_u16().map_err(short))
        .collect()
}

/// Whether a session is in a transaction, as the server says after each cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Status {
    /// In none.
    #[default]
    Idle,
    /// In one.
    InTransaction,
    /// In one that an error has aborted.
    Aborted,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) oid: u32,
}

/// What the server has answered to a cycle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) columns: Vec<Column>,
    /// The first rows.
    pub(crate) rows: Vec<Vec<Option<Bytes>>>,
    /// How many rows there were.
    pub(crate) row_count: usize,
    /// What the server says that it did, such as `UPDATE 1`, for each statement.
    pub(crate) tags: Vec<String>,
    /// SQLSTATE and message of an error.
    pub(crate) error: Option<(String, String)>,
    /// Where the session is after it.
    pub(crate) status: Status,
}

/// How many rows an answer keeps to be shown.
const KEPT_ROWS: usize = 5;

/// Collects what the server says until it is ready for the next cycle.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// What was not looked at yet.
    unread: BytesMut,
    answer: Answer,
    /// What it has said of each statement that was described: the types of the parameters, and the columns.
    pub(crate) described: Vec<(Vec<u32>, Vec<Column>)>,
    /// It has said the first half of that, and not the second.
    describes: bool,
    /// It asks for the data of a COPY.
    pub(crate) wants_data: bool,
    /// The backend's process, from the beginning of a connection.
    pub(crate) pid: i32,
}

impl Server {
    /// Takes bytes; the answer, if they complete it.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> io::Result<Option<Answer>> {
        self.unread.extend_from_slice(bytes);
        let mut done = None;
        while let Some(message) = Message::parse(&mut self.unread)? {
            match message {
                Message::RowDescription(body) => {
                    let (mut columns, mut fields) = (Vec::new(), body.fields());
                    while let Some(field) = fields.next()? {
                        let (name, oid) = (field.name().to_owned(), field.type_oid());
                        columns.push(Column { name, oid });
                    }
                    match self.described.last_mut() {
                        Some((_, described)) if std::mem::take(&mut self.describes) => {
                            *described = columns
                        }
                        _ => self.answer.columns = columns,
                    }
                }
                Message::NoData => self.describes = false,
                Message::ParameterDescription(body) => {
                    let (mut oids, mut parameters) = (Vec::new(), body.parameters());
                    while let Some(oid) = parameters.next()? {
                        oids.push(oid);
                    }
                    self.described.push((oids, Vec::new()));
                    self.describes = true;
                }
                Message::DataRow(body) => {
                    self.answer.row_count += 1;
                    if self.answer.rows.len() < KEPT_ROWS {
                        let (mut row, mut ranges) = (Vec::new(), body.ranges());
                        while let Some(range) = ranges.next()? {
                            row.push(range.map(|range| body.buffer_bytes().slice(range)));
                        }
                        self.answer.rows.push(row);
                    }
                }
                Message::CommandComplete(body) => self.answer.tags.push(body.tag()?.to_owned()),
                Message::PortalSuspended => self.answer.tags.push("suspended".to_owned()),
                Message::EmptyQueryResponse => self.answer.tags.push("empty".to_owned()),
                Message::ErrorResponse(body) => {
                    let (mut code, mut text, mut fields) =
                        (String::new(), String::new(), body.fields());
                    while let Some(field) = fields.next()? {
                        let value = String::from_utf8_lossy(field.value_bytes());
                        match field.type_() {
                            b'C' => code = value.into_owned(),
                            b'M' => text = value.into_owned(),
                            _ => {}
                        }
                    }
                    self.answer.error = Some((code, text));
                }
                Message::BackendKeyData(body) => self.pid = body.process_id(),
                Message::CopyInResponse(_) => self.wants_data = true,
                Message::ReadyForQuery(body) => {
                    self.answer.status = match body.status() {
                        b'T' => Status::InTransaction,
                        b'E' => Status::Aborted,
                        _ => Status::Idle,
                    };
                    self.wants_data = false;
                    done = Some(std::mem::take(&mut self.answer));
                }
                _ => {}
            }
        }
        Ok(done)
    }
}
