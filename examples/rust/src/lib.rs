//! Connects to the clickstream service, and says when a call that failed is worth another try.

use std::error::Error;
use std::time::{Duration, Instant};

use tonic::transport::{self, Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

/// The code that build.rs makes of the protos. (Their comments are not in the form that clippy likes.)
#[allow(clippy::doc_lazy_continuation)]
pub mod v1 {
    tonic::include_proto!("clickstream.v1");
}

use v1::clickstream_service_client::ClickstreamServiceClient;

/// The deadline of one call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The deadline of one stream; a follower then opens the next one.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the service may be away before a program gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

const MESSAGE_BYTES_MAX: usize = 8 << 20;
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A client for the whole process to share: clones use the same connection. The server need not be there yet.
pub fn connect(target: &str) -> Result<ClickstreamServiceClient<Channel>, transport::Error> {
    let channel = Endpoint::from_shared(format!("http://{target}"))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_lazy();
    Ok(ClickstreamServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// A request with a deadline.
pub fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Makes a call, each try with a deadline of its own, until it succeeds, fails for good, or the patience is over.
/// Only for calls that may be repeated: here all of them, since everything that is sent has an id.
pub async fn call<T: Clone, R>(
    message: T,
    method: impl AsyncFn(Request<T>) -> Result<Response<R>, Status>,
) -> Result<R, Status> {
    let mut pause = Pause::default();
    loop {
        match method(within(CALL_TIMEOUT, message.clone())).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(error) => pause.after(error).await?,
        }
    }
}

/// Waits between tries.
#[derive(Default)]
pub struct Pause {
    tries: u32,
    give_up: Option<Instant>,
}

impl Pause {
    /// Notes that the service answers.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Waits as long as this error asks for. Returns it if another try is of no use, or the patience is over.
    pub async fn after(&mut self, error: Status) -> Result<(), Status> {
        let Some(asked) = retry_delay(&error) else {
            return Err(error);
        };
        let own = PAUSE_MAX.min(Duration::from_millis(100) * 2u32.pow(self.tries.min(5)));
        self.tries += 1;
        // Many clients lose one server at the same moment; chance keeps them from coming back at the same moment.
        let delay = asked.max(own.mul_f64(rand::random_range(0.5..1.0)));
        let give_up = *self.give_up.get_or_insert_with(|| Instant::now() + PATIENCE);
        if Instant::now() + delay > give_up {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// How long the server asks to wait; None: another try is of no use. An overloaded server is RESOURCE_EXHAUSTED with
/// RetryInfo; without it, the message was too large and always will be.
fn retry_delay(error: &Status) -> Option<Duration> {
    if let Some(info) = error.get_details_retry_info() {
        return Some(info.retry_delay.unwrap_or_default());
    }
    // A connection that broke has any code in tonic, mostly UNKNOWN; what it broke of is the source. What a server has
    // sent has none.
    let passing = matches!(
        error.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
    );
    (passing || error.source().is_some()).then_some(Duration::ZERO)
}

/// The value of the argument `--name=VALUE`; this one, if it is not given.
pub fn flag(name: &str, default: &str) -> String {
    let start = format!("--{name}=");
    let given = std::env::args().find_map(|argument| Some(argument.strip_prefix(&start)?.to_owned()));
    given.unwrap_or_else(|| default.to_owned())
}
