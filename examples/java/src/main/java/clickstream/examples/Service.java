package clickstream.examples;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** The connection to the clickstream service. */
final class Service implements AutoCloseable {
  /** The deadline of one call. */
  static final long CALL_TIMEOUT_MS = 10_000;

  /** The deadline of one stream; a follower then opens the next one. */
  static final long STREAM_TIMEOUT_MS = 300_000;

  private static final int MESSAGE_BYTES_MAX = 8 << 20;

  private static final String SERVICE = "clickstream.v1.ClickstreamService";

  /**
   * gRPC tries a call again by itself, up to four times, and waits as long as the server asks it to. UpdateBatchStatus
   * is left out: with an expected status, a second try fails if the first one did its work. Leave UpdateSession out as
   * well where others update the same sessions: a second try writes over what they have written since. All else is
   * safe.
   */
  private static final Map<String, Object> CONFIG =
      Map.of(
          "loadBalancingConfig",
          List.of(Map.of("round_robin", Map.of())),
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  List.of(Map.of("service", SERVICE)),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 4.0,
                      "initialBackoff", "0.1s",
                      "maxBackoff", "2s",
                      "backoffMultiplier", 3.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE"))),
              Map.of("name", List.of(Map.of("service", SERVICE, "method", "UpdateBatchStatus")))));

  /** For the whole process to share. */
  final ManagedChannel channel;

  /** The server need not be there yet. */
  Service(String target) {
    channel =
        Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
            .defaultServiceConfig(CONFIG)
            .maxInboundMessageSize(MESSAGE_BYTES_MAX)
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }

  /**
   * Makes a call, each try with a deadline of its own, until it succeeds, fails for good, or the patience is over. Only
   * for calls that may be repeated: here all of them, since everything that is sent has an id.
   */
  <T> T call(Supplier<T> attempt) throws InterruptedException {
    Pause pause = new Pause(channel);
    while (true) {
      try {
        return attempt.get();
      } catch (StatusRuntimeException error) {
        pause.after(error);
      }
    }
  }
}
