// Producer registers searches and pushes what was clicked and bought. It goes on when a server is lost in the middle,
// and may be run again with the same prefix: what is stored is found by its ids and stored only once.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	clickstream "clickstream.internal/go/clickstream/v1"
	"clickstream.internal/go/internal/service"
)

const atOnce = 8

func main() {
	log.SetFlags(0)
	target := flag.String("target", "127.0.0.1:50051", "address of the service")
	sessions := flag.Int("sessions", 10, "how many sessions to register")
	prefix := flag.String("prefix", "go", "what the ids of the sessions begin with")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := produce(ctx, *target, *prefix, *sessions); err != nil {
		log.Fatal(err)
	}
}

func produce(ctx context.Context, target, prefix string, sessions int) error {
	connection, err := service.Connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := clickstream.NewClickstreamServiceClient(connection)

	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for n := 1; n <= sessions && ctx.Err() == nil; n++ {
		group.Go(func() error { return store(ctx, client, fmt.Sprintf("%s-%d", prefix, n), n) })
	}
	return group.Wait()
}

// store registers one session and pushes its events, and says so once both are durable.
func store(ctx context.Context, client clickstream.ClickstreamServiceClient, id string, n int) error {
	// The same id always has the same content. With the time of this run it would be a conflict in the next one.
	searched := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)

	registered, err := service.Call(ctx, client.RegisterSession, &clickstream.RegisterSessionRequest{
		Session: &clickstream.Session{
			SessionId:     id,
			SearchQuery:   structpb.NewStringValue("desk lamp"),
			SearchResults: []*clickstream.SearchResultItem{{ObjectId: "lamp-3"}, {ObjectId: "lamp-7"}},
			CreatedAt:     timestamppb.New(searched),
		},
	})
	if err != nil {
		return fmt.Errorf("registering %s: %w", id, err)
	}
	switch outcome := registered.GetOutcome(); outcome {
	case clickstream.WriteOutcome_WRITE_OUTCOME_INSERTED, clickstream.WriteOutcome_WRITE_OUTCOME_DUPLICATE:
	default:
		return fmt.Errorf("%s was not stored: %s", id, outcome)
	}

	pushed, err := service.Call(ctx, client.PushEvents, &clickstream.PushEventsRequest{
		Events: []*clickstream.SessionEvent{
			{
				EventId:   "click",
				SessionId: id,
				ObjectId:  "lamp-7",
				CreatedAt: timestamppb.New(searched.Add(5 * time.Second)),
			},
			{
				EventId:   "purchase",
				SessionId: id,
				ObjectId:  "lamp-7",
				EventType: "purchase",
				CreatedAt: timestamppb.New(searched.Add(time.Minute)),
				Value:     &clickstream.Money{CurrencyCode: "EUR", Amount: "49.90"},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("pushing events of %s: %w", id, err)
	}
	if failures := pushed.GetFailures(); len(failures) > 0 {
		return fmt.Errorf("event %s of %s was not stored: %s", failures[0].GetId(), id, failures[0].GetMessage())
	}

	fmt.Println("stored", id, "as number", registered.GetSession().GetSessionNumber())
	return nil
}
