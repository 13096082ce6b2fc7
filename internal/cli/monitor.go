// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/flow"
)

// monitorOptions are the flags of monitor.
type monitorOptions struct {
	types, from, to, related []string
	verbose, json, hex       bool
}

func (t *tool) monitor() *cobra.Command {
	var o monitorOptions
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Print what happens to packets, until it is interrupted",
		Example: `  cilium monitor --type drop -v
  cilium monitor --related-to 12 -j`,
		Args: exactArgs(),
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.types, "type", "t", nil, "only events of these types: drop, trace, policy-verdict, agent")
	f.StringSliceVar(&o.from, "from", nil, "only packets that these endpoints send")
	f.StringSliceVar(&o.to, "to", nil, "only packets that these endpoints receive")
	f.StringSliceVar(&o.related, "related-to", nil, "only packets that these endpoints send or receive")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print both sides' labels, the place in the BPF source that decided, and the rule")
	f.BoolVarP(&o.json, "json", "j", false, "print one JSON object a line")
	f.BoolVar(&o.hex, "hex", false, "print the beginning of the packet too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := o.filter()
		if err != nil {
			return err
		}
		if err := t.watch(cmd.Context(), filter, &o); cmd.Context().Err() == nil {
			return err
		}
		return nil // an interrupt is how a monitor ends
	}
	return cmd
}

func (o *monitorOptions) filter() (flow.Filter, error) {
	var filter flow.Filter
	for _, text := range o.types {
		one, err := flow.ParseType(text)
		if err != nil {
			return filter, usage("--type: %w", err)
		}
		filter.Types = append(filter.Types, one)
	}
	for _, list := range []struct {
		flag  string
		texts []string
		into  *[]uint16
	}{{"from", o.from, &filter.From}, {"to", o.to, &filter.To}, {"related-to", o.related, &filter.RelatedTo}} {
		for _, text := range list.texts {
			id, err := strconv.ParseUint(text, 10, 16)
			if err != nil || id == 0 {
				return filter, usage("--%s %q: use the number of an endpoint; cilium endpoint list shows them", list.flag, text)
			}
			*list.into = append(*list.into, uint16(id))
		}
	}
	return filter, nil
}

// Pauses between attempts to reach an agent that went away during a monitor.
const (
	reconnectPause = 200 * time.Millisecond
	reconnectLimit = time.Minute
)

// watch prints events. An agent that restarts is waited for; one that is not
// there at the beginning is an error at once.
func (t *tool) watch(ctx context.Context, filter flow.Filter, o *monitorOptions) error {
	c := t.client()
	defer c.Close()
	stream, err := c.Monitor(ctx, filter)
	if err != nil {
		return err
	}
	if !o.json {
		fmt.Fprintln(t.Err, "Listening for events on "+c.Socket()+"; press Ctrl-C to stop")
	}
	for {
		err := t.printEvents(stream, o)
		_ = stream.Close()
		if !errors.Is(err, client.ErrEnded) {
			return err
		}
		fmt.Fprintln(t.Err, "The agent has gone away; waiting for it. Events until it is back are not shown.")
		if stream, err = reconnect(ctx, c, filter); err != nil {
			return err
		}
		fmt.Fprintln(t.Err, "The agent is back")
	}
}

func reconnect(ctx context.Context, c *client.Client, filter flow.Filter) (*client.Stream, error) {
	for deadline := time.Now().Add(reconnectLimit); ; {
		stream, err := c.Monitor(ctx, filter)
		if !errors.Is(err, client.ErrUnreachable) || time.Now().After(deadline) {
			return stream, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(reconnectPause):
		}
	}
}

func (t *tool) printEvents(stream *client.Stream, o *monitorOptions) error {
	for {
		event, err := stream.Next()
		if err != nil {
			return err
		}
		text, err := o.text(event)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(t.Out, text); err != nil {
			return fmt.Errorf("print an event: %w", err)
		}
	}
}

func (o *monitorOptions) text(event flow.Event) (string, error) {
	if o.json {
		data, err := json.Marshal(event)
		return string(data), err
	}
	text := flow.Format(event, o.verbose)
	if o.hex && len(event.Capture) > 0 {
		text += "\n" + strings.TrimRight(flow.HexDump(event), "\n")
	}
	return text, nil
}
