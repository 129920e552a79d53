"""What shardbuild's speed is, as ratios to what the machine and others can do.

Each workload is a row of :mod:`shardbuild.bench.workloads`: how its data is made, the
raw baseline, our way, and the peers' ways. All of them take their turn in every
round, and what is printed are medians of ratios taken within a round: a noisy
machine moves both sides.
"""
