// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/identity"
)

func (s *Server) sortedIdentities() []identity.Identity {
	list := slices.Clone(s.agent.Identities.Identities())
	slices.SortFunc(list, func(a, b identity.Identity) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func (s *Server) identityModels() []api.Identity {
	models := []api.Identity{}
	for _, id := range s.sortedIdentities() {
		models = append(models, *identityModel(id))
	}
	return models
}

// getIdentities lists the identities that carry all labels of the query. With
// labels given, none is an error.
func (s *Server) getIdentities(r *http.Request) (int, any, error) {
	wanted, err := queryLabels(r)
	if err != nil {
		return 0, nil, err
	}
	models := []api.Identity{}
	for _, id := range s.sortedIdentities() {
		if id.Labels.Carries(wanted) {
			models = append(models, *identityModel(id))
		}
	}
	if len(wanted) > 0 && len(models) == 0 {
		return 0, nil, fmt.Errorf("%w: no identity has the labels %s; cilium identity list shows all", ErrNotFound, wanted)
	}
	return http.StatusOK, models, nil
}

func (s *Server) getIdentity(r *http.Request) (int, any, error) {
	id, err := identity.Parse(r.PathValue("id"))
	if err != nil {
		return 0, nil, badRequest("id", "%w", err)
	}
	known, err := s.knownIdentity(id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, identityModel(known), nil
}

func (s *Server) knownIdentity(id identity.ID) (identity.Identity, error) {
	if known, ok := s.agent.Identities.Lookup(id); ok {
		return known, nil
	}
	i := slices.IndexFunc(identity.Reserved(), func(r identity.Identity) bool { return r.ID == id })
	if i < 0 {
		return identity.Identity{}, fmt.Errorf("%w: identity %d; cilium identity list shows all", ErrNotFound, id)
	}
	return identity.Reserved()[i], nil
}

// postIPAM reserves an address of the family in the query, or of each family the
// node has.
func (s *Server) postIPAM(r *http.Request) (int, any, error) {
	query := r.URL.Query()
	owner := query.Get("owner")
	host := s.agent.Node.Addressing()
	families := []string{query.Get("family")}
	switch families[0] {
	case "":
		families = presentFamilies(host)
	case "ipv4", "ipv6":
	default:
		return 0, nil, badRequest("family", "address family %q: use ipv4, ipv6, or none for both", families[0])
	}
	answer := &api.IPAMResponse{HostAddressing: *host}
	var taken []netip.Addr
	for _, family := range families {
		addr, err := s.agent.Addresses.Reserve(family, owner)
		if err != nil {
			for _, other := range taken {
				_ = s.agent.Addresses.ReleaseReserved(other) // the first failure is what counts
			}
			return 0, nil, withCode(http.StatusBadGateway, err)
		}
		taken = append(taken, addr)
		if addr.Is4() {
			answer.Address.IPv4 = addr.String()
		} else {
			answer.Address.IPv6 = addr.String()
		}
	}
	return http.StatusCreated, answer, nil
}

func presentFamilies(host *api.NodeAddressing) []string {
	var families []string
	if host.IPv4 != nil && host.IPv4.Enabled {
		families = append(families, "ipv4")
	}
	if host.IPv6 != nil && host.IPv6.Enabled {
		families = append(families, "ipv6")
	}
	return families
}

func (s *Server) postIPAMAddress(r *http.Request) (int, any, error) {
	addr, err := pathAddr(r)
	if err != nil {
		return 0, nil, err
	}
	if err := s.agent.Addresses.ReserveAddr(addr, r.URL.Query().Get("owner")); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nil, nil
}

func (s *Server) deleteIPAMAddress(r *http.Request) (int, any, error) {
	addr, err := pathAddr(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nil, s.agent.Addresses.ReleaseReserved(addr)
}

func pathAddr(r *http.Request) (netip.Addr, error) {
	addr, err := netip.ParseAddr(r.PathValue("ip"))
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, badRequest("ip", "%q is no IP address", r.PathValue("ip"))
	}
	return addr.Unmap(), nil
}
