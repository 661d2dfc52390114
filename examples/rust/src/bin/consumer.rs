//! Follows a batch until it is sealed. After a lost connection it goes on behind the last number that came.

use std::error::Error;
use std::process::ExitCode;

use clickstream_examples::v1::clickstream_service_client::ClickstreamServiceClient;
use clickstream_examples::v1::{GetBatchSessionsRequest, SessionWithEvents};
use clickstream_examples::{Pause, STREAM_TIMEOUT, connect, flag, within};
use prost_types::value::Kind;
use tonic::Status;
use tonic::transport::Channel;

#[tokio::main]
async fn main() -> ExitCode {
    match follow().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn follow() -> Result<(), Box<dyn Error>> {
    let mut client = connect(&flag("target", "127.0.0.1:50051"))?;
    let first = flag("after", "0").parse()?;
    let mut reader = Reader {
        batch_id: flag("batch", ""),
        last: first,
        sessions: 0,
    };

    let mut pause = Pause::default();
    while let Err(error) = reader.read(&mut client, &mut pause).await {
        let code = error.code();
        pause.after(error).await?;
        eprintln!("the stream broke ({code:?}), going on after number {}", reader.last);
    }
    // In a sealed batch, what is missing was moved to a later batch by UpdateSession.
    let Reader { last, sessions, .. } = reader;
    println!(
        "sealed after number {last}: {sessions} sessions, {} missing",
        last - first - sessions
    );
    Ok(())
}

/// Where a consumer stands. Who has to survive a stop of this process keeps `batch_id` and `last` on disk.
struct Reader {
    batch_id: String,
    last: i64,
    sessions: i64,
}

impl Reader {
    /// Reads one stream, until the batch is sealed and nothing more comes.
    async fn read(&mut self, client: &mut ClickstreamServiceClient<Channel>, pause: &mut Pause) -> Result<(), Status> {
        let request = GetBatchSessionsRequest {
            batch_id: self.batch_id.clone(),
            after_number: self.last,
            follow: true,
            ..Default::default()
        };
        let mut answers = client
            .get_batch_sessions(within(STREAM_TIMEOUT, request))
            .await?
            .into_inner();
        while let Some(answer) = answers.message().await? {
            pause.reset();
            for found in answer.sessions {
                self.take(found)?;
            }
            if !self.batch_id.is_empty() {
                self.last = answer.last_number; // else none has come, and it begins again
            }
            if answer.sealed {
                return Ok(());
            }
        }
        Err(Status::data_loss("the stream ended before the batch was sealed"))
    }

    /// Deals with one session.
    fn take(&mut self, found: SessionWithEvents) -> Result<(), Status> {
        if found.session_number <= self.last {
            let words = format!("number {} came after number {}", found.session_number, self.last);
            return Err(Status::data_loss(words));
        }
        // Another batch may collect when the stream is taken up again, so from now on this one is asked for by its id.
        self.batch_id = found.batch_id;
        self.last = found.session_number;
        self.sessions += 1;
        let session = found.session.unwrap_or_default();
        let query = match session.search_query.and_then(|query| query.kind) {
            Some(Kind::StringValue(text)) => text,
            _ => String::new(),
        };
        println!("{} {} {query}", self.last, session.session_id);
        Ok(())
    }
}
