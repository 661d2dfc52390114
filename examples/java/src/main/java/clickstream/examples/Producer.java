package clickstream.examples;

import clickstream.v1.ClickstreamServiceGrpc;
import clickstream.v1.ClickstreamServiceGrpc.ClickstreamServiceBlockingStub;
import clickstream.v1.ItemFailure;
import clickstream.v1.Money;
import clickstream.v1.PushEventsRequest;
import clickstream.v1.PushEventsResponse;
import clickstream.v1.RegisterSessionRequest;
import clickstream.v1.RegisterSessionResponse;
import clickstream.v1.SearchResultItem;
import clickstream.v1.Session;
import clickstream.v1.SessionEvent;
import clickstream.v1.WriteOutcome;
import com.google.protobuf.Timestamp;
import com.google.protobuf.util.Timestamps;
import com.google.protobuf.util.Values;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/**
 * Registers searches and pushes what was clicked and bought. It goes on when a server is lost in the middle, and may be
 * run again with the same prefix: what is stored is found by its ids and stored only once.
 */
public final class Producer {
  private static final int AT_ONCE = 8;
  private static final Instant FIRST = Instant.parse("2026-01-05T09:00:00Z");

  private final Service service;
  private final ClickstreamServiceBlockingStub stub;

  private Producer(Service service) {
    this.service = service;
    this.stub = ClickstreamServiceGrpc.newBlockingStub(service.channel);
  }

  public static void main(String[] arguments) throws InterruptedException {
    Flags flags = new Flags(arguments, "target", "sessions", "prefix");
    int sessions = Integer.parseInt(flags.get("sessions", "10"));
    String prefix = flags.get("prefix", "java");
    ExecutorService workers = Executors.newFixedThreadPool(AT_ONCE);
    try (Service service = new Service(flags.get("target", "127.0.0.1:50051"))) {
      Producer producer = new Producer(service);
      List<Future<Void>> all = new ArrayList<>();
      for (int n = 1; n <= sessions; n++) {
        String id = prefix + "-" + n;
        Instant searched = FIRST.plusSeconds(n);
        all.add(workers.submit(() -> producer.store(id, searched)));
      }
      for (Future<Void> one : all) {
        one.get();
      }
    } catch (ExecutionException failed) {
      System.err.println(failed.getCause().getMessage());
      System.exit(1);
    } finally {
      workers.shutdownNow();
    }
  }

  /** Registers one session and pushes its events, and says so once both are durable. */
  private Void store(String id, Instant searched) throws InterruptedException {
    // The same id always has the same content. With the time of this run it would be a conflict in the next one.
    Session session =
        Session.newBuilder()
            .setSessionId(id)
            .setSearchQuery(Values.of("desk lamp"))
            .addSearchResults(SearchResultItem.newBuilder().setObjectId("lamp-3"))
            .addSearchResults(SearchResultItem.newBuilder().setObjectId("lamp-7"))
            .setCreatedAt(timestamp(searched))
            .build();
    RegisterSessionResponse registered =
        service.call(
            () -> inTime().registerSession(RegisterSessionRequest.newBuilder().setSession(session).build()));
    WriteOutcome outcome = registered.getOutcome();
    if (outcome != WriteOutcome.WRITE_OUTCOME_INSERTED && outcome != WriteOutcome.WRITE_OUTCOME_DUPLICATE) {
      throw new IllegalStateException(id + " was not stored: " + outcome);
    }

    SessionEvent click =
        SessionEvent.newBuilder()
            .setEventId("click")
            .setSessionId(id)
            .setObjectId("lamp-7")
            .setCreatedAt(timestamp(searched.plusSeconds(5)))
            .build();
    SessionEvent purchase =
        SessionEvent.newBuilder()
            .setEventId("purchase")
            .setSessionId(id)
            .setObjectId("lamp-7")
            .setEventType("purchase")
            .setCreatedAt(timestamp(searched.plusSeconds(60)))
            .setValue(Money.newBuilder().setCurrencyCode("EUR").setAmount("49.90"))
            .build();
    PushEventsResponse pushed =
        service.call(
            () -> inTime().pushEvents(PushEventsRequest.newBuilder().addEvents(click).addEvents(purchase).build()));
    if (pushed.getFailuresCount() > 0) {
      ItemFailure failure = pushed.getFailures(0);
      throw new IllegalStateException(
          "event " + failure.getId() + " of " + id + " was not stored: " + failure.getMessage());
    }

    System.out.println("stored " + id + " as number " + registered.getSession().getSessionNumber());
    return null;
  }

  private ClickstreamServiceBlockingStub inTime() {
    return stub.withDeadlineAfter(Service.CALL_TIMEOUT_MS, TimeUnit.MILLISECONDS);
  }

  private static Timestamp timestamp(Instant moment) {
    return Timestamps.fromMillis(moment.toEpochMilli());
  }
}
