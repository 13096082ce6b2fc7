// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"cilium.local/cilium/test/bench/stats"
)

func TestQuantileIsByNearestRank(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64((i*37)%100+1))
	}
	for q, want := range map[float64]float64{0: 1, 0.01: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		if got := stats.Quantile(hundred, q); got != want {
			t.Errorf("quantile %g of 1..100 = %g, want %g", q, got, want)
		}
	}
	if !math.IsNaN(stats.Quantile(nil, 0.5)) || !math.IsNaN(stats.Median(nil)) {
		t.Error("nothing has a quantile or a median")
	}
}

func TestMedianOfAnEvenNumberIsBetweenTheMiddleTwo(t *testing.T) {
	if m := stats.Median([]float64{9, 1, 2, 4}); m != 3 {
		t.Errorf("median = %g, want 3", m)
	}
	if m := stats.Median([]float64{9, 1, 2}); m != 2 {
		t.Errorf("median = %g, want 2", m)
	}
}

func TestRatiosAreOfPairs(t *testing.T) {
	got := stats.Ratios([]float64{2, 9, 3, 7}, []float64{4, 0, 2})
	if len(got) != 2 || got[0] != 0.5 || got[1] != 1.5 {
		t.Errorf("ratios %v, want 0.5 and 1.5", got)
	}
}

// TestIntervalHoldsTheTruthAsOftenAsItSays repeats a measurement whose median is
// known. A percentile bootstrap of 15 samples holds it some 93 of 100 times.
func TestIntervalHoldsTheTruthAsOftenAsItSays(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	const repeats, samples, truth = 400, 15, 10.0
	held := 0
	for range repeats {
		var values []float64
		for range samples {
			values = append(values, truth+random.NormFloat64())
		}
		e := stats.BootstrapMedian(values)
		if e.Low > e.Value || e.High < e.Value {
			t.Fatalf("%+v: the value lies outside of its interval", e)
		}
		if e.Low <= truth && truth <= e.High {
			held++
		}
	}
	if share := float64(held) / repeats; share < 0.89 || share > 0.99 {
		t.Errorf("the interval held the truth in %.0f %% of repetitions, want about 95", 100*share)
	}
}

func TestEqualSamplesGiveEqualEstimates(t *testing.T) {
	samples := []float64{3, 1, 4, 1, 5, 9, 2, 6}
	if a, b := stats.BootstrapMedian(samples), stats.BootstrapMedian(samples); a != b {
		t.Errorf("%v and %v of the same samples", a, b)
	}
	e := stats.BootstrapQuantile(samples, 0.99)
	if e.Value != 9 || e.High != 9 || e.Low >= 9 {
		t.Errorf("p99 of eight samples = %+v, want 9, and an interval that begins below", e)
	}
}

func TestOnlyWhatLiesWhollyBeyondAGoalMissesIt(t *testing.T) {
	at := func(low, value, high float64) stats.Estimate {
		return stats.Estimate{Value: value, Interval: stats.Interval{Low: low, High: high}}
	}
	for _, c := range []struct {
		goal stats.Goal
		is   stats.Estimate
		want stats.Verdict
	}{
		{stats.Goal{}, at(1, 2, 3), stats.NoGoal},
		{stats.AtMost(0), at(0, 0, 0), stats.Met},
		{stats.AtMost(2), at(1, 2, 3), stats.Met},
		{stats.AtMost(1), at(1, 2, 3), stats.Open},
		{stats.AtMost(0.9), at(1, 2, 3), stats.Missed},
		{stats.AtLeast(2), at(1, 2, 3), stats.Met},
		{stats.AtLeast(3), at(1, 2, 3), stats.Open},
		{stats.AtLeast(3.1), at(1, 2, 3), stats.Missed},
		{stats.AtMost(1), at(math.NaN(), math.NaN(), math.NaN()), stats.Missed},
	} {
		if got := c.goal.Judge(c.is); got != c.want {
			t.Errorf("goal %q, %+v: %s, want %s", c.goal, c.is, got, c.want)
		}
	}
}

func TestHistogramIsExactToAPartInSixtyFour(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 50).Draw(t, "durations")
		var h, other stats.Histogram
		var exact []float64
		for i, v := range values {
			if i%2 == 0 {
				h.Add(v)
			} else {
				other.Add(v)
			}
			exact = append(exact, float64(v))
		}
		h.Merge(other)
		if h.Total() != uint64(len(values)) {
			t.Fatalf("%d counted of %d", h.Total(), len(values))
		}
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		want, got := stats.Quantile(exact, q), h.Quantile(q)
		if math.Abs(got-want) > want/64 {
			t.Fatalf("quantile %g of %v = %g, want %g", q, values, got, want)
		}
	})
}

func TestHistogramOfNothingHasNoQuantile(t *testing.T) {
	var h stats.Histogram
	if !math.IsNaN(h.Quantile(0.5)) {
		t.Error("a quantile of nothing")
	}
	h.Add(-5)
	if h.Quantile(1) != 0 {
		t.Error("a negative duration is to count as none")
	}
}
