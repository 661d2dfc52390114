package clickstream.examples;

import clickstream.v1.ClickstreamServiceGrpc;
import clickstream.v1.GetBatchSessionsRequest;
import clickstream.v1.GetBatchSessionsResponse;
import clickstream.v1.SessionWithEvents;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;

/** Follows a batch until it is sealed. After a lost connection it goes on behind the last number that came. */
public final class Consumer {
  // Where this consumer stands. Who has to survive a stop of this process keeps batchId and last on disk.
  private String batchId;
  private final long first;
  private long last;
  private long sessions;

  private Consumer(String batchId, long after) {
    this.batchId = batchId;
    this.first = after;
    this.last = after;
  }

  public static void main(String[] arguments) throws InterruptedException {
    Flags flags = new Flags(arguments, "target", "batch", "after");
    Consumer consumer = new Consumer(flags.get("batch", ""), Long.parseLong(flags.get("after", "0")));
    try (Service service = new Service(flags.get("target", "127.0.0.1:50051"))) {
      consumer.follow(service);
    } catch (StatusRuntimeException | IllegalStateException failed) {
      System.err.println(failed.getMessage());
      System.exit(1);
    }
  }

  private void follow(Service service) throws InterruptedException {
    Pause pause = new Pause(service.channel);
    boolean sealed = false;
    while (!sealed) {
      try {
        sealed = read(service, pause);
      } catch (StatusRuntimeException error) {
        pause.after(error);
        System.err.printf("the stream broke (%s), going on after number %d%n", error.getStatus().getCode(), last);
      }
    }
    // In a sealed batch, what is missing was moved to a later batch by UpdateSession.
    System.out.printf("sealed after number %d: %d sessions, %d missing%n", last, sessions, last - first - sessions);
  }

  /** Reads one stream. It returns once the batch is sealed, and nothing more comes. */
  private boolean read(Service service, Pause pause) {
    Iterator<GetBatchSessionsResponse> stream =
        ClickstreamServiceGrpc.newBlockingStub(service.channel)
            .withDeadlineAfter(Service.STREAM_TIMEOUT_MS, TimeUnit.MILLISECONDS)
            .getBatchSessions(
                GetBatchSessionsRequest.newBuilder().setBatchId(batchId).setAfterNumber(last).setFollow(true).build());
    while (stream.hasNext()) {
      GetBatchSessionsResponse answer = stream.next();
      pause.reset();
      answer.getSessionsList().forEach(this::take);
      if (!batchId.isEmpty()) { // else none has come, and it begins again
        last = answer.getLastNumber();
      }
      if (answer.getSealed()) {
        return true;
      }
    }
    throw new IllegalStateException("the stream ended before the batch was sealed");
  }

  /** Deals with one session. */
  private void take(SessionWithEvents found) {
    if (found.getSessionNumber() <= last) {
      throw new IllegalStateException("number " + found.getSessionNumber() + " came after number " + last);
    }
    // Another batch may collect when the stream is taken up again, so from now on this one is asked for by its id.
    batchId = found.getBatchId();
    last = found.getSessionNumber();
    sessions++;
    System.out.println(
        last + " " + found.getSession().getSessionId() + " " + found.getSession().getSearchQuery().getStringValue());
  }
}
