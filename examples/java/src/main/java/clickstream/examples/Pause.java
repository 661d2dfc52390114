package clickstream.examples;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.EnumSet;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;

/** Waits between the tries of one call or stream. */
final class Pause {
  /** How long the service may be away before a program gives up. */
  private static final long PATIENCE_MS = 60_000;

  /**
   * CANCELLED, for nothing is cancelled here: the call came just as the server stopped. UNKNOWN, for the service never
   * says so: the connection broke at a bad moment ("channel closed").
   */
  private static final Set<Status.Code> PASSING =
      EnumSet.of(
          Status.Code.UNAVAILABLE,
          Status.Code.DEADLINE_EXCEEDED,
          Status.Code.CANCELLED,
          Status.Code.UNKNOWN);

  private final ManagedChannel channel;
  private int tries;
  private long giveUpAt;

  Pause(ManagedChannel channel) {
    this.channel = channel;
  }

  /** Notes that the service answers. */
  void reset() {
    tries = 0;
  }

  /** Waits as long as this error asks for. Throws it again if another try is of no use, or the patience is over. */
  void after(StatusRuntimeException error) throws InterruptedException {
    long asked = retryDelayMs(error);
    long now = System.nanoTime() / 1_000_000;
    if (tries == 0) {
      giveUpAt = now + PATIENCE_MS;
    }
    long own = Math.min(2_000, 100L << Math.min(tries, 5));
    tries++;
    // Many clients lose one server at the same moment; chance keeps them from coming back at the same moment.
    long delay = Math.max(asked, ThreadLocalRandom.current().nextLong(own / 2, own));
    if (asked < 0 || now + delay > giveUpAt) {
      throw error;
    }
    Thread.sleep(delay);
    // A server that comes back is found now, not after gRPC's own pauses of up to two minutes.
    channel.resetConnectBackoff();
  }

  /**
   * How long the server asks to wait; negative: another try is of no use. An overloaded server is RESOURCE_EXHAUSTED
   * with RetryInfo; without it, the message was too large and always will be.
   */
  private static long retryDelayMs(StatusRuntimeException error) {
    try {
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(RetryInfo.class)) {
          return Durations.toMillis(detail.unpack(RetryInfo.class).getRetryDelay());
        }
      }
    } catch (InvalidProtocolBufferException unreadable) {
      error.addSuppressed(unreadable);
    }
    return PASSING.contains(error.getStatus().getCode()) ? 0 : -1;
  }
}
