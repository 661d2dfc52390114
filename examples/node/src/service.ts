/** Connects to the clickstream service, and says when a call that failed is worth another try. */
import { type CallOptions, type ClientUnaryCall, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import { ClickstreamServiceClient } from "./generated/clickstream/v1/clickstream_service.js";
import type { Duration } from "./generated/google/protobuf/duration.js";
import { RetryInfo, Status } from "./generated/google/rpc/errors.js";

/** The deadline of one call. */
export const CALL_TIMEOUT_MS = 10_000;
/** The deadline of one stream; a follower then opens the next one. */
export const STREAM_TIMEOUT_MS = 300_000;
/** How long the service may be away before a program gives up. */
export const PATIENCE_MS = 60_000;

const MESSAGE_BYTES_MAX = 8 * 1024 * 1024;
/** CANCELLED, for nothing is cancelled here: the call came just as the server stopped. */
const PASSING = [status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.CANCELLED];
const SERVICE = "clickstream.v1.ClickstreamService";

/**
 * gRPC tries a call again by itself, up to four times, and waits as long as the server asks it to. UpdateBatchStatus is
 * left out: with an expected status, a second try fails if the first one did its work. Leave UpdateSession out as well
 * where others update the same sessions: a second try writes over what they have written since. All else is safe.
 */
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: SERVICE }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 3,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
    { name: [{ service: SERVICE, method: "UpdateBatchStatus" }] },
  ],
};

/** A client for the whole process to share. The server need not be there yet. */
export function connect(target: string): ClickstreamServiceClient {
  return new ClickstreamServiceClient(target, credentials.createInsecure(), {
    "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    // A server that comes back is found within seconds, not after gRPC's two minutes.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2_000,
  });
}

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/**
 * Makes a call, each try with a deadline of its own, until it succeeds, fails for good, or the patience is over.
 * Only for calls that may be repeated: here all of them, since everything that is sent has an id.
 */
export async function call<Request, Response>(
  client: ClickstreamServiceClient,
  method: Unary<Request, Response>,
  request: Request,
): Promise<Response> {
  const pause = new Pause();
  for (;;) {
    try {
      return await new Promise<Response>((resolve, reject) => {
        const deadline = Date.now() + CALL_TIMEOUT_MS;
        method.call(client, request, new Metadata(), { deadline }, (error, response) =>
          error ? reject(error) : resolve(response),
        );
      });
    } catch (error) {
      await pause.after(error);
    }
  }
}

/** Waits between tries. */
export class Pause {
  #tries = 0;
  #giveUpAt = 0;

  /** Notes that the service answers. */
  reset(): void {
    this.#tries = 0;
  }

  /** Waits as long as this error asks for. Throws it again if another try is of no use, or the patience is over. */
  async after(error: unknown): Promise<void> {
    if (!isServiceError(error)) throw error;
    const asked = retryDelayMs(error);
    if (this.#tries === 0) this.#giveUpAt = Date.now() + PATIENCE_MS;
    const own = Math.min(2_000, 100 * 2 ** this.#tries);
    this.#tries += 1;
    // Many clients lose one server at the same moment; chance keeps them from coming back at the same moment.
    const delay = Math.max(asked ?? 0, own * (0.5 + Math.random() / 2));
    if (asked === undefined || Date.now() + delay > this.#giveUpAt) throw error;
    await sleep(delay);
  }
}

/**
 * How long the server asks to wait; undefined: another try is of no use. An overloaded server is RESOURCE_EXHAUSTED
 * with RetryInfo; without it, the message was too large and always will be.
 */
function retryDelayMs(error: ServiceError): number | undefined {
  for (const details of error.metadata.get("grpc-status-details-bin")) {
    for (const detail of Status.decode(details as Buffer).details) {
      if (detail.typeUrl === "type.googleapis.com/google.rpc.RetryInfo") {
        return milliseconds(RetryInfo.decode(detail.value).retryDelay);
      }
    }
  }
  return PASSING.includes(error.code) ? 0 : undefined;
}

function milliseconds(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}
