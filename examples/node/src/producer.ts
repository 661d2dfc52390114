/**
 * Registers searches and pushes what was clicked and bought. It goes on when a server is lost in the middle, and may be
 * run again with the same prefix: what is stored is found by its ids and stored only once.
 */
import { parseArgs } from "node:util";
import {
  type ClickstreamServiceClient,
  PushEventsRequest,
  RegisterSessionRequest,
} from "./generated/clickstream/v1/clickstream_service.js";
import { WriteOutcome } from "./generated/clickstream/v1/outcome.js";
import { call, connect } from "./service.js";

const AT_ONCE = 8;

const { values } = parseArgs({
  options: {
    target: { type: "string", default: "127.0.0.1:50051" },
    sessions: { type: "string", default: "10" },
    prefix: { type: "string", default: "node" },
  },
});

/** Registers one session and pushes its events, and says so once both are durable. */
async function store(client: ClickstreamServiceClient, sessionId: string, n: number): Promise<void> {
  // The same id always has the same content. With the time of this run it would be a conflict in the next one.
  const searched = Date.UTC(2026, 0, 5, 9, 0, n);

  const registered = await call(
    client,
    client.registerSession,
    RegisterSessionRequest.create({
      session: {
        sessionId,
        searchQuery: "desk lamp",
        searchResults: [{ objectId: "lamp-3" }, { objectId: "lamp-7" }],
        createdAt: new Date(searched),
      },
    }),
  );
  if (registered.outcome !== WriteOutcome.INSERTED && registered.outcome !== WriteOutcome.DUPLICATE) {
    throw new Error(`${sessionId} was not stored: ${WriteOutcome[registered.outcome] ?? registered.outcome}`);
  }

  const pushed = await call(
    client,
    client.pushEvents,
    PushEventsRequest.create({
      events: [
        { eventId: "click", sessionId, objectId: "lamp-7", createdAt: new Date(searched + 5_000) },
        {
          eventId: "purchase",
          sessionId,
          objectId: "lamp-7",
          eventType: "purchase",
          createdAt: new Date(searched + 60_000),
          value: { currencyCode: "EUR", amount: "49.90" },
        },
      ],
    }),
  );
  for (const failure of pushed.failures) {
    throw new Error(`event ${failure.id} of ${sessionId} was not stored: ${failure.message}`);
  }

  console.log(`stored ${sessionId} as number ${registered.session?.sessionNumber}`);
}

const client = connect(values.target);
let last = 0;

async function worker(): Promise<void> {
  while (last < Number(values.sessions)) {
    const n = ++last;
    await store(client, `${values.prefix}-${n}`, n);
  }
}

try {
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
  last = Infinity;
}
client.close();
