/** Follows a batch until it is sealed. After a lost connection it goes on behind the last number that came. */
import { Metadata, status } from "@grpc/grpc-js";
import { parseArgs } from "node:util";
import {
  type ClickstreamServiceClient,
  GetBatchSessionsRequest,
  type GetBatchSessionsResponse,
} from "./generated/clickstream/v1/clickstream_service.js";
import type { SessionWithEvents } from "./generated/clickstream/v1/session.js";
import { connect, isServiceError, Pause, STREAM_TIMEOUT_MS } from "./service.js";

const { values } = parseArgs({
  options: {
    target: { type: "string", default: "127.0.0.1:50051" },
    batch: { type: "string", default: "" },
    after: { type: "string", default: "0" },
  },
});

/** Where a consumer stands. Who has to survive a stop of this process keeps `batchId` and `last` on disk. */
const first = BigInt(values.after);
let batchId = values.batch;
let last = first;
let sessions = 0n;

/** Deals with one session. */
function take(found: SessionWithEvents): void {
  if (found.sessionNumber <= last) throw new Error(`number ${found.sessionNumber} came after number ${last}`);
  // Another batch may collect when the stream is taken up again, so from now on this one is asked for by its id.
  batchId = found.batchId;
  last = found.sessionNumber;
  sessions += 1n;
  console.log(`${last} ${found.session?.sessionId} ${found.session?.searchQuery}`);
}

/** Reads one stream, until the batch is sealed and nothing more comes. */
async function read(client: ClickstreamServiceClient, pause: Pause): Promise<void> {
  const request = GetBatchSessionsRequest.create({ batchId, afterNumber: last, follow: true });
  const stream = client.getBatchSessions(request, new Metadata(), { deadline: Date.now() + STREAM_TIMEOUT_MS });
  for await (const answer of stream as AsyncIterable<GetBatchSessionsResponse>) {
    pause.reset();
    answer.sessions.forEach(take);
    if (batchId) last = answer.lastNumber; // else none has come, and it begins again
    if (answer.sealed) return;
  }
  throw new Error("the stream ended before the batch was sealed");
}

async function follow(client: ClickstreamServiceClient): Promise<void> {
  const pause = new Pause();
  for (;;) {
    try {
      return await read(client, pause);
    } catch (error) {
      await pause.after(error);
      const code = isServiceError(error) ? status[error.code] : error;
      console.error(`the stream broke (${code}), going on after number ${last}`);
    }
  }
}

const client = connect(values.target);
try {
  await follow(client);
  // In a sealed batch, what is missing was moved to a later batch by UpdateSession.
  console.log(`sealed after number ${last}: ${sessions} sessions, ${last - first - sessions} missing`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
client.close();
