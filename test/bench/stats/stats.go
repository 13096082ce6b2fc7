// SPDX-License-Identifier: Apache-2.0

// Package stats turns measurements into statements: medians and quantiles, how
// sure they are (bootstrap), latency histograms, and whether a goal is met. It is
// pure: equal samples give equal answers.
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Quantile returns the q-th quantile by nearest rank, so that the 0.99 of 100
// values is the 99th. It is NaN of nothing.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return ranked(slices.Sorted(slices.Values(values)), q)
}

// ranked is Quantile of sorted values.
func ranked(sorted []float64, q float64) float64 {
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(0, min(rank, len(sorted)-1))]
}

// Median returns the middle, which of an even number of values is the mean of the
// middle two. It is NaN of nothing.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return middle(slices.Sorted(slices.Values(values)))
}

func middle(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// Interval is a range of values, both ends included.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Estimate is a value, with the range that it would have in 95 of 100 repetitions
// of the measurement.
type Estimate struct {
	Value float64
	Interval
}

const (
	resamples  = 2000
	confidence = 0.95
	// seed makes the resampling the same for the same samples.
	seed1, seed2 = 1, 2
)

// Bootstrap estimates a statistic of the samples: the interval is what it is in
// most of many draws of as many samples with replacement. The statistic is given
// sorted values.
func Bootstrap(samples []float64, statistic func(sorted []float64) float64) Estimate {
	if len(samples) == 0 {
		nan := math.NaN()
		return Estimate{nan, Interval{nan, nan}}
	}
	random := rand.New(rand.NewPCG(seed1, seed2))
	drawn := make([]float64, len(samples))
	all := make([]float64, resamples)
	for i := range all {
		for j := range drawn {
			drawn[j] = samples[random.IntN(len(samples))]
		}
		slices.Sort(drawn)
		all[i] = statistic(drawn)
	}
	slices.Sort(all)
	const tail = (1 - confidence) / 2
	return Estimate{
		statistic(slices.Sorted(slices.Values(samples))),
		Interval{ranked(all, tail), ranked(all, 1-tail)},
	}
}

// BootstrapMedian estimates the median.
func BootstrapMedian(samples []float64) Estimate { return Bootstrap(samples, middle) }

// BootstrapQuantile estimates a quantile. Of few samples a high quantile is their
// largest one, and its interval says so.
func BootstrapQuantile(samples []float64, q float64) Estimate {
	return Bootstrap(samples, func(sorted []float64) float64 { return ranked(sorted, q) })
}

// Ratios divides pairs that were measured one after the other, so that what
// disturbed both is no difference. Pairs without a baseline are left out.
func Ratios(values, baselines []float64) []float64 {
	var ratios []float64
	for i := range min(len(values), len(baselines)) {
		if baselines[i] > 0 {
			ratios = append(ratios, values[i]/baselines[i])
		}
	}
	return ratios
}
