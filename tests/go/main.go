// A backend in Go, with the CloudEvents SDK alone: it publishes a submit, and reads what comes back.
//
//	cloudevents submit structured|binary URL CREDS PROJECT EXECUTION
//	cloudevents read URL CREDS PROJECT EXECUTION
//
// `submit` ends once the command is kept. `read` prints one line of JSON for each fact and chunk that the streams hold,
// as the SDK understands it, and ends with them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	jetstream "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/nats-io/nats.go"
)

const submitType = "dev.ocf.task.submit.v1"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 6 && args[0] == "submit":
		return submit(args[1], args[2], args[3], args[4], args[5])
	case len(args) == 5 && args[0] == "read":
		return read(args[1], args[2], args[3], args[4])
	}
	return errors.New("usage: submit structured|binary URL CREDS PROJECT EXECUTION; or read URL CREDS PROJECT EXECUTION")
}

func submit(mode, url, creds, project, execution string) error {
	event := cloudevents.NewEvent()
	event.SetID(execution + "-" + mode)
	event.SetSource("/go-backend")
	event.SetType(submitType)
	event.SetTime(time.Now())
	event.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	data := map[string]any{"execution_id": execution, "project_id": project, "prompt": "from Go, " + mode + ": ä 😀"}
	if err := event.SetData(cloudevents.ApplicationJSON, data); err != nil {
		return err
	}
	connection, err := nats.Connect(url, nats.UserCredentials(creds))
	if err != nil {
		return err
	}
	defer connection.Close()
	subject := fmt.Sprintf("ocf.cmd.submit.%s.%s", project, execution)
	sender, err := jetstream.NewSenderFromConn(connection, "OCF_COMMANDS", subject, nil)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if mode == "structured" {
		ctx = binding.WithForceStructured(ctx)
	} else {
		ctx = binding.WithForceBinary(ctx)
	}
	return sender.Send(ctx, (*binding.EventMessage)(&event))
}

func read(url, creds, project, execution string) error {
	connection, err := nats.Connect(url, nats.UserCredentials(creds))
	if err != nil {
		return err
	}
	defer connection.Close()
	streams, err := connection.JetStream()
	if err != nil {
		return err
	}
	for stream, subject := range map[string]string{
		"OCF_EVENTS": fmt.Sprintf("ocf.evt.%s.%s.*", project, execution),
		"OCF_OUTPUT": fmt.Sprintf("ocf.out.%s.%s", project, execution),
	} {
		messages, err := streams.SubscribeSync(subject, nats.BindStream(stream), nats.OrderedConsumer(), nats.DeliverAll())
		if err != nil {
			return err
		}
		for {
			message, err := messages.NextMsg(2 * time.Second)
			if errors.Is(err, nats.ErrTimeout) {
				break
			}
			if err != nil {
				return err
			}
			event, err := binding.ToEvent(context.Background(), jetstream.NewMessage(message))
			if err != nil {
				return fmt.Errorf("%s: %w", message.Subject, err)
			}
			if err := event.Validate(); err != nil {
				return fmt.Errorf("%s: %w", message.Subject, err)
			}
			var data map[string]any
			if err := event.DataAs(&data); err != nil {
				return fmt.Errorf("%s: %w", message.Subject, err)
			}
			line, err := json.Marshal(map[string]any{
				"id": event.ID(), "type": event.Type(), "source": event.Source(), "subject": event.Subject(),
				"datacontenttype": event.DataContentType(), "extensions": event.Extensions(), "data": data,
			})
			if err != nil {
				return err
			}
			fmt.Println(string(line))
		}
	}
	return nil
}
