//! A payment provider that is as unreliable as a real one, in this process, on a port of its own; and its client.
//!
//! `POST /charge` with an `Idempotency-Key` and `{"amount": 1200}` charges once per key and says under which id; a key that
//! comes again gets the same id. `GET /charges` lists what was really charged. What goes wrong depends only on the seed,
//! the key and how often the key came, so it is the same in every run.

use std::collections::HashMap;
use std::error::Error;
use std::future::pending;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, client, server};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

type BoxError = Box<dyn Error + Send + Sync>;
type Reply = Response<Full<Bytes>>;

const KEY: &str = "idempotency-key";
/// In cents. More is declined.
pub const MOST: u64 = 50_000;
/// From this try on a key is always answered.
const ANSWERED_TRY: u32 = 3;

// ---------------------------------------------------------------- the provider

/// Runs until it is dropped.
pub struct Provider {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Provider {
    /// Its mishaps follow from `seed`.
    pub async fn start(seed: u64) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let books = Arc::new(Books {
            seed,
            entries: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, books));
        Ok(Self { address, task })
    }

    pub fn client(&self) -> Client {
        Client {
            address: self.address,
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, books: Arc<Books>) {
    // Ends with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let books = Arc::clone(&books);
        connections.spawn(async move {
            let service = service_fn(|request| answer(&books, request));
            let connection = server::conn::http1::Builder::new();
            // An error is a mishap, or a client that has gone.
            let _ = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What the provider knows.
struct Books {
    seed: u64,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// How often each key came.
    tries: HashMap<String, u32>,
    /// In the order in which they were made.
    charges: Vec<Charge>,
}

/// A charge that was really made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    pub id: ChargeId,
    pub key: String,
    pub amount: u64,
}

#[derive(Debug, Clone, Copy)]
enum Mishap {
    /// 500, and nothing was charged.
    Fails,
    /// No answer, and nothing was charged.
    Hangs,
    /// No answer, although it was charged: the connection is closed.
    ForgetsToAnswer,
}

impl Books {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_mishap(&self, key: &str) -> Option<Mishap> {
        let mut entries = self.entries();
        let tries = entries.tries.entry(key.to_owned()).or_default();
        *tries += 1;
        if *tries >= ANSWERED_TRY {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, key, *tries).hash(&mut hasher);
        match hasher.finish() % 10 {
            0..2 => Some(Mishap::Fails),
            2 => Some(Mishap::Hangs),
            3..6 => Some(Mishap::ForgetsToAnswer),
            _ => None,
        }
    }

    fn charge(&self, key: &str, amount: u64) -> Reply {
        let mut entries = self.entries();
        let known = entries.charges.iter().find(|charge| charge.key == key);
        let charge = match known {
            Some(charge) if charge.amount != amount => {
                let error = json!({"error": "the key was used for another amount"});
                return reply(StatusCode::UNPROCESSABLE_ENTITY, error);
            }
            Some(charge) => charge.clone(),
            None => {
                let charge = Charge {
                    id: ChargeId(entries.charges.len() as u64 + 1),
                    key: key.to_owned(),
                    amount,
                };
                entries.charges.push(charge.clone());
                charge
            }
        };
        reply(StatusCode::OK, charge.to_json())
    }
}

async fn answer(books: &Books, request: Request<Incoming>) -> Result<Reply, BoxError> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/charge") => {
            let key = request.headers().get(KEY).and_then(|key| key.to_str().ok());
            let key = key.map(str::to_owned);
            let body = request.into_body().collect().await?.to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let (Some(key), Some(amount)) = (key, body["amount"].as_u64()) else {
                let error = json!({"error": "a key and an amount are needed"});
                return Ok(reply(StatusCode::BAD_REQUEST, error));
            };
            if amount > MOST {
                let error = json!({"error": "not enough money"});
                return Ok(reply(StatusCode::PAYMENT_REQUIRED, error));
            }
            match books.next_mishap(&key) {
                Some(Mishap::Fails) => {
                    let error = json!({"error": "try again later"});
                    Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, error))
                }
                Some(Mishap::Hangs) => pending().await,
                Some(Mishap::ForgetsToAnswer) => {
                    books.charge(&key, amount);
                    Err("the connection is closed".into())
                }
                None => Ok(books.charge(&key, amount)),
            }
        }
        (&Method::GET, "/charges") => {
            let charges = books
                .entries()
                .charges
                .iter()
                .map(Charge::to_json)
                .collect();
            Ok(reply(StatusCode::OK, Value::Array(charges)))
        }
        _ => Ok(reply(StatusCode::NOT_FOUND, Value::Null)),
    }
}

fn reply(status: StatusCode, body: Value) -> Reply {
    let mut reply = Response::new(Full::from(body.to_string()));
    *reply.status_mut() = status;
    reply
}

impl Charge {
    /// By the key: `order-7` or `order-7-…`.
    pub fn is_of(&self, order: u64) -> bool {
        let rest = self.key.strip_prefix(&format!("order-{order}"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    fn to_json(&self) -> Value {
        json!({"id": self.id.0, "key": self.key, "amount": self.amount})
    }

    fn from_json(json: &Value) -> Option<Self> {
        Some(Self {
            id: ChargeId(json["id"].as_u64()?),
            key: json["key"].as_str()?.to_owned(),
            amount: json["amount"].as_u64()?,
        })
    }
}

// ---------------------------------------------------------------- the client

/// Knows where the provider is. Each call has a connection of its own, which ends with it.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
}

/// The provider's name for a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChargeId(pub u64);

/// Why there is no charge id.
#[derive(Debug, thiserror::Error)]
pub enum ChargeError {
    /// Final: the provider has decided, and nothing was charged.
    #[error("declined: {0}")]
    Declined(String),
    /// It may have been charged or not. Try again, with the same key.
    #[error("no usable answer")]
    Transient(#[source] BoxError),
}

/// Charges an amount, in cents. Whoever is not sure of the outcome calls again with the same key and the same amount.
///
/// It waits for as long as the provider does not answer: give it a timeout. Like no answer, that says nothing about whether
/// the amount was charged.
pub async fn charge(client: &Client, key: &str, amount: u64) -> Result<ChargeId, ChargeError> {
    let body = json!({ "amount": amount });
    let request = Request::post("/charge").header(KEY, key);
    let request = request.header(CONTENT_TYPE, "application/json");
    let answer = client.send(request, body.to_string()).await;
    let (status, body) = answer.map_err(ChargeError::Transient)?;
    if status.is_client_error() {
        let reason = body["error"].as_str().unwrap_or("no reason given");
        return Err(ChargeError::Declined(reason.to_owned()));
    }
    match Charge::from_json(&body).filter(|_| status.is_success()) {
        Some(charge) => Ok(charge.id),
        None => Err(ChargeError::Transient(status.to_string().into())),
    }
}

/// What was really charged.
pub async fn charges(client: &Client) -> Result<Vec<Charge>, BoxError> {
    let (_, body) = client.send(Request::get("/charges"), String::new()).await?;
    let charges = body.as_array().ok_or("not a list")?;
    let charges = charges.iter().map(Charge::from_json);
    Ok(charges.collect::<Option<_>>().ok_or("not a charge")?)
}

impl Client {
    async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: String,
    ) -> Result<(StatusCode, Value), BoxError> {
        let request = request.header(HOST, self.address.to_string());
        let request = request.body(Full::<Bytes>::from(body))?;
        let stream = TokioIo::new(TcpStream::connect(self.address).await?);
        let (mut sender, connection) = client::conn::http1::handshake(stream).await?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok((status, serde_json::from_slice(&body)?))
        };
        // In this task, so that dropping the call closes the connection. The connection ends when `sender` is gone; its own
        // error is that of the exchange.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}
