// Consumer follows a batch until it is sealed. After a lost connection it goes on behind the last number that came.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"google.golang.org/grpc/status"

	clickstream "clickstream.internal/go/clickstream/v1"
	"clickstream.internal/go/internal/service"
)

func main() {
	log.SetFlags(0)
	target := flag.String("target", "127.0.0.1:50051", "address of the service")
	batch := flag.String("batch", "", "the batch to follow; empty: the one that collects now")
	after := flag.Int64("after", 0, "go on after this number of the batch, which must be named then")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := follow(ctx, *target, &reader{batchID: *batch, first: *after, last: *after}); err != nil {
		log.Fatal(err)
	}
}

// reader is where a consumer stands. Who has to survive a stop of this process keeps batchID and last on disk.
type reader struct {
	batchID     string
	first, last int64
	sessions    int64
}

func follow(ctx context.Context, target string, r *reader) error {
	connection, err := service.Connect(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := clickstream.NewClickstreamServiceClient(connection)

	var pause service.Pause
	for {
		err := r.read(ctx, client, pause.Reset)
		if err == nil {
			break
		}
		if !pause.After(ctx, err) {
			return err
		}
		log.Printf("the stream broke (%s), going on after number %d", status.Code(err), r.last)
	}
	// In a sealed batch, what is missing was moved to a later batch by UpdateSession.
	fmt.Printf("sealed after number %d: %d sessions, %d missing\n", r.last, r.sessions, r.last-r.first-r.sessions)
	return nil
}

// read reads one stream. It returns nil once the batch is sealed, and nothing more comes.
func (r *reader) read(ctx context.Context, client clickstream.ClickstreamServiceClient, alive func()) error {
	ctx, cancel := context.WithTimeout(ctx, service.StreamTimeout)
	defer cancel()
	stream, err := client.GetBatchSessions(ctx, &clickstream.GetBatchSessionsRequest{
		BatchId:     r.batchID,
		AfterNumber: r.last,
		Follow:      true,
	})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the stream ended before the batch was sealed")
		}
		if err != nil {
			return err
		}
		alive()
		for _, found := range answer.GetSessions() {
			if err := r.take(found); err != nil {
				return err
			}
		}
		if r.batchID != "" { // else none has come, and it begins again
			r.last = answer.GetLastNumber()
		}
		if answer.GetSealed() {
			return nil
		}
	}
}

// take deals with one session.
func (r *reader) take(found *clickstream.SessionWithEvents) error {
	if found.GetSessionNumber() <= r.last {
		return fmt.Errorf("number %d came after number %d", found.GetSessionNumber(), r.last)
	}
	// Another batch may collect when the stream is taken up again, so from now on this one is asked for by its id.
	r.batchID = found.GetBatchId()
	r.last = found.GetSessionNumber()
	r.sessions++
	fmt.Println(r.last, found.GetSession().GetSessionId(), found.GetSession().GetSearchQuery().GetStringValue())
	return nil
}
