// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
)

// rules checks what is allowed inside connections.
func (d *decoder) rules(r *L7Spec, path string) {
	kinds := given(map[string]bool{
		"http": r.HTTP != nil, "grpc": r.GRPC != nil, "kafka": r.Kafka != nil, "dns": r.DNS != nil,
	})
	if len(kinds) != 1 {
		d.failAt(path, "give exactly one of http, grpc, kafka and dns")
	}
	for i := range r.HTTP {
		d.http(&r.HTTP[i], fmt.Sprintf("%s.http[%d]", path, i))
	}
	for i := range r.Kafka {
		d.kafka(&r.Kafka[i], fmt.Sprintf("%s.kafka[%d]", path, i))
	}
	d.names(r.DNS, path+".dns", true)
}

func (d *decoder) http(h *HTTPSpec, path string) {
	d.expression(h.Method, path+".method")
	d.expression(h.Path, path+".path")
	d.expression(h.Host, path+".host")
	for i, text := range h.Headers {
		if name, _, _ := strings.Cut(text, " "); name == "" {
			d.failAt(fmt.Sprintf("%s.headers[%d]", path, i), "write \"Name\" or \"Name value\"")
		}
	}
	for i, m := range h.HeaderMatches {
		at := fmt.Sprintf("%s.headerMatches[%d]", path, i)
		if m.Name == "" {
			d.failAt(at, "name is missing")
		}
		if m.Value != "" && m.ValueRegex != "" {
			d.failAt(at, "value and valueRegex exclude each other")
		}
		d.expression(m.ValueRegex, at+".valueRegex")
		d.oneOf(m.Mismatch, at+".mismatch", "", "LOG", "ADD", "DELETE", "REPLACE")
	}
}

// expression checks an expression without compiling it: "a{1000}" is short, and
// a document full of them would take minutes and gigabytes to compile.
func (d *decoder) expression(text, path string) {
	if _, err := syntax.Parse(text, syntax.Perl); err != nil {
		d.failAt(path, "%q is no regular expression: %v", text, err)
	}
}

// kafkaKeys are the protocol's requests, in the order of their numbers.
var kafkaKeys = strings.Fields(`produce fetch offsets metadata leaderandisr stopreplica updatemetadata
	controlledshutdown offsetcommit offsetfetch findcoordinator joingroup heartbeat leavegroup syncgroup
	describegroups listgroups saslhandshake apiversions createtopics deletetopics deleterecords
	initproducerid offsetforleaderepoch addpartitionstotxn addoffsetstotxn endtxn writetxnmarkers
	txnoffsetcommit describeacls createacls deleteacls describeconfigs alterconfigs`)

var kafkaTopic = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

func (d *decoder) kafka(k *KafkaSpec, path string) {
	d.oneOf(k.Role, path+".role", "", "produce", "consume")
	if k.Role != "" && k.APIKey != "" {
		d.failAt(path, "role and apiKey exclude each other")
	}
	d.oneOf(strings.ToLower(k.APIKey), path+".apiKey", append([]string{""}, kafkaKeys...)...)
	if _, err := strconv.ParseInt(k.APIVersion, 10, 16); k.APIVersion != "" && err != nil {
		d.failAt(path+".apiVersion", "%q is no version; use a number", k.APIVersion)
	}
	if k.Topic != "" && (len(k.Topic) > 255 || !kafkaTopic.MatchString(k.Topic)) {
		d.failAt(path+".topic", "%q is no topic; use up to 255 letters, digits, '.', '_' and '-'", k.Topic)
	}
}
