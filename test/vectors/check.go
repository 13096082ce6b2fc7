// SPDX-License-Identifier: Apache-2.0

package vectors

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

var responses = map[string]compile.Response{"icmp": compile.ResponseICMP, "rst": compile.ResponseRST}

// check reads a check.
func (c *Case) check(text string) (Check, error) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return Check{}, errors.New("write DIRECTION PEER PORT ACTION [RULE] [icmp|rst] [audit ACTION [RULE]]")
	}
	q, err := c.Question(words[:3])
	if err != nil {
		return Check{}, err
	}
	check := Check{Text: text, Question: q}
	enforced := words[3:]
	if at := slices.Index(enforced, "audit"); at >= 0 {
		if check.Want.Audit, err = c.verdict(enforced[at+1:]); err != nil {
			return check, err
		}
		enforced = enforced[:at]
	}
	check.Want.Verdict, err = c.verdict(enforced)
	return check, err
}

// Question reads the direction, the peer and the port of a check.
func (c *Case) Question(words []string) (q Question, err error) {
	switch words[0] {
	case policy.Ingress.String():
	case policy.Egress.String():
		q.Direction = policy.Egress
	default:
		return q, fmt.Errorf("direction %q: use ingress or egress", words[0])
	}
	if q.Peer, err = c.Party(words[1]); err != nil {
		return q, err
	}
	q.Port, err = l4.ParsePort(words[2])
	return q, err
}

// verdict reads ACTION [RULE] [icmp|rst].
func (c *Case) verdict(words []string) (v Verdict, err error) {
	if len(words) == 0 {
		return v, errors.New("an action is missing: write allow, deny or default-deny")
	}
	v.Action = Action(words[0])
	if v.Action != Allow && v.Action != Deny && v.Action != DefaultDeny {
		return v, fmt.Errorf("action %q: use allow, deny or default-deny", words[0])
	}
	words = words[1:]
	if len(words) > 0 {
		if response, ok := responses[words[len(words)-1]]; ok {
			v.Response, words = response, words[:len(words)-1]
		}
	}
	if len(words) == 0 {
		return v, nil
	}
	place, err := strconv.Atoi(words[0])
	if err != nil || place < 1 || place > len(c.Rules) || len(words) > 1 {
		return v, fmt.Errorf("rule %q: use 1 to %d", strings.Join(words, " "), len(c.Rules))
	}
	v.Cookie = c.Rules[place-1].Cookie
	return v, nil
}

// Text returns an answer as it is written in checks.
func (c *Case) Text(a Answer) string {
	text := c.text(a.Verdict)
	if a.Audit != (Verdict{}) {
		text += " audit " + c.text(a.Audit)
	}
	return text
}

func (c *Case) text(v Verdict) string {
	text := string(v.Action)
	if at := slices.IndexFunc(c.Rules, func(r *policy.Rule) bool { return r.Cookie == v.Cookie }); at >= 0 {
		text += fmt.Sprintf(" %d", at+1)
	} else if v.Cookie != 0 {
		text += fmt.Sprintf(" (unknown rule with cookie %d)", v.Cookie)
	}
	for name, response := range responses {
		if v.Response == response {
			text += " " + name
		}
	}
	return text
}
