//! Registers searches and pushes what was clicked and bought. It goes on when a server is lost in the middle, and may be
//! run again with the same prefix: what is stored is found by its ids and stored only once.

use std::error::Error;
use std::process::ExitCode;

use clickstream_examples::v1::clickstream_service_client::ClickstreamServiceClient;
use clickstream_examples::v1::{
    Money, PushEventsRequest, RegisterSessionRequest, SearchResultItem, Session, SessionEvent, WriteOutcome,
};
use clickstream_examples::{call, connect, flag};
use futures_util::{StreamExt, TryStreamExt, stream};
use prost_types::Timestamp;
use tonic::transport::Channel;

type Failure = Box<dyn Error>;

const AT_ONCE: usize = 8;
/// The same id always has the same content. With the time of this run it would be a conflict in the next one.
const SEARCHED_S: i64 = 1_767_603_600; // 2026-01-05, 9:00

#[tokio::main]
async fn main() -> ExitCode {
    match produce().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn produce() -> Result<(), Failure> {
    let client = connect(&flag("target", "127.0.0.1:50051"))?;
    let sessions: i64 = flag("sessions", "10").parse()?;
    let prefix = flag("prefix", "rust");

    let stored = stream::iter(1..=sessions).map(|n| store(&client, format!("{prefix}-{n}"), n));
    stored.buffer_unordered(AT_ONCE).try_collect().await
}

/// Registers one session and pushes its events, and says so once both are durable.
async fn store(client: &ClickstreamServiceClient<Channel>, id: String, n: i64) -> Result<(), Failure> {
    let at = |seconds: i64| {
        Some(Timestamp {
            seconds: SEARCHED_S + n + seconds,
            nanos: 0,
        })
    };

    let result = |id: &str| SearchResultItem {
        object_id: id.to_owned(),
        ..Default::default()
    };
    let session = Session {
        session_id: id.clone(),
        search_query: Some("desk lamp".into()),
        search_results: vec![result("lamp-3"), result("lamp-7")],
        created_at: at(0),
        ..Default::default()
    };
    let request = RegisterSessionRequest { session: Some(session) };
    let registered = call(request, async |request| client.clone().register_session(request).await).await?;
    match registered.outcome() {
        WriteOutcome::Inserted | WriteOutcome::Duplicate => {}
        outcome => return Err(format!("{id} was not stored: {}", outcome.as_str_name()).into()),
    }

    let click = SessionEvent {
        event_id: "click".to_owned(),
        session_id: id.clone(),
        object_id: "lamp-7".to_owned(),
        created_at: at(5),
        ..Default::default()
    };
    let purchase = SessionEvent {
        event_id: "purchase".to_owned(),
        event_type: "purchase".to_owned(),
        created_at: at(60),
        value: Some(Money {
            currency_code: "EUR".to_owned(),
            amount: "49.90".to_owned(),
        }),
        ..click.clone()
    };
    let request = PushEventsRequest {
        events: vec![click, purchase],
    };
    let pushed = call(request, async |request| client.clone().push_events(request).await).await?;
    if let Some(failure) = pushed.failures.first() {
        return Err(format!("event {} of {id} was not stored: {}", failure.id, failure.message).into());
    }

    println!(
        "stored {id} as number {}",
        registered.session.unwrap_or_default().session_number
    );
    Ok(())
}
