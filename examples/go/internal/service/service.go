// Package service connects to the clickstream service, and says when a call that failed is worth another try.
package service

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// CallTimeout is the deadline of one call.
	CallTimeout = 10 * time.Second
	// StreamTimeout is the deadline of one stream; a follower then opens the next one.
	StreamTimeout = 5 * time.Minute
	// Patience is how long the service may be away before a program gives up.
	Patience = time.Minute

	messageBytesMax = 8 << 20
)

// gRPC tries a call again by itself, up to four times, and waits as long as the server asks it to. UpdateBatchStatus is
// left out: with an expected status, a second try fails if the first one did its work. Leave UpdateSession out as well
// where others update the same sessions: a second try writes over what they have written since. All else is safe.
const config = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "clickstream.v1.ClickstreamService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "2s",
      "backoffMultiplier": 3,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }, {
    "name": [{"service": "clickstream.v1.ClickstreamService", "method": "UpdateBatchStatus"}]
  }]
}`

// Connect returns a connection for the whole process to share. The server need not be there yet.
func Connect(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// A server that comes back is found within seconds, not after gRPC's two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
}

// Call makes a call, each try with a deadline of its own, until it succeeds, fails for good, or Patience is over.
// Only for calls that may be repeated: here all of them, since everything that is sent has an id.
func Call[Request, Response any](
	ctx context.Context,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
) (Response, error) {
	var pause Pause
	for {
		tryCtx, cancel := context.WithTimeout(ctx, CallTimeout)
		response, err := method(tryCtx, request)
		cancel()
		if err == nil || !pause.After(ctx, err) {
			return response, err
		}
	}
}

// Pause waits between tries. Its zero value is ready for use.
type Pause struct {
	tries  int
	giveUp time.Time
}

// Reset notes that the service answers.
func (p *Pause) Reset() { *p = Pause{} }

// After waits as long as this error asks for. It returns false if another try is of no use, or Patience is over.
func (p *Pause) After(ctx context.Context, err error) bool {
	delay, again := retryDelay(err)
	if p.tries == 0 {
		p.giveUp = time.Now().Add(Patience)
	}
	own := min(2*time.Second, 100*time.Millisecond<<min(p.tries, 5))
	p.tries++
	// Many clients lose one server at the same moment; chance keeps them from coming back at the same moment.
	delay = max(delay, own/2+rand.N(own/2))
	if !again || time.Now().Add(delay).After(p.giveUp) {
		return false
	}
	select {
	case <-time.After(delay):
		return true
	case <-ctx.Done():
		return false
	}
}

// retryDelay returns how long the server asks to wait, and whether another try may succeed. An overloaded server is
// RESOURCE_EXHAUSTED with RetryInfo; without it, the message was too large and always will be.
func retryDelay(err error) (time.Duration, bool) {
	failure := status.Convert(err)
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	switch failure.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return 0, true
	case codes.Canceled: // Not by us: the call came just as the server stopped.
		return 0, true
	default:
		return 0, false
	}
}
