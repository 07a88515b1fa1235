"""What the checks of a report judge by: every threshold, its default, and why it is that.

    scripts/analyze.py --study=/tmp/study --analysis_config=configs/analysis/default.py

Copy this file and change what you want; whatever you leave out stays as it is here. What is set otherwise
is shown in the report and in findings.json. Written by tools/generate_docs.py from where the thresholds
are declared.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the analysis config."""
    config = ConfigDict()

    config.best_step = ConfigDict()
    # The playbook: "always during the first 10% of training" is far too many steps
    config.best_step.early = 0.1
    # The playbook: "consistently in the last 25% of training", longer might be better
    config.best_step.late = 0.75
    # What part of the trials is "consistently": were the best step anywhere with the same
    # probability, 5 of 6 or more would be late in 1 of 200 studies
    config.best_step.consistent = 0.75
    # Judged is the better part of the trials: where one that hardly learns has its best step is
    # chance
    config.best_step.better = 0.5
    # Complete trials; of fewer, nothing is "always" or "consistently"
    config.best_step.fewest = 3
    # End_factor up to which a schedule counts as decaying to nearly zero
    config.best_step.decayed = 0.1
    # A gain within so many standard deviations from one evaluation to the next is no gain
    config.best_step.noises = 2.0

    config.boundary = ConfigDict()
    # How often the verdict "act" may come by chance in a study, over all bounds; taking out other
    # effects makes chance look smaller than it is by a fifth (simulation), hence not 5 %
    config.boundary.chance = 0.04
    # How much weaker evidence may be to be worth a look
    config.boundary.look_factor = 4.0
    # The best few crowd a bound if their median lies in this outer part of the axis (and one
    # trial's share more)
    config.boundary.depth = 0.15
    # "close to its boundary", for the single best trial: this outer part
    config.boundary.outer = 0.1
    # Taking out other effects must not lead away from the trials that are really the best: the
    # best one lies in this outer part,
    config.boundary.best_within = 0.25
    # Or the median of the best few in this one
    config.boundary.median_within = 0.3333333333333333

    config.clipping = ConfigDict()
    # The playbook: "more than 50% of the updates getting clipped somehow" is extremely aggressive
    config.clipping.aggressive = 0.5

    config.decay = ConfigDict()
    # A learning rate that ends above this part of its peak hardly decays: the usual schedules end
    # at a tenth or at zero
    config.decay.least = 0.5

    config.early_instability = ConfigDict()
    # Steps that count as early: the playbook's own check is "an abbreviated run of just ~500
    # steps"
    config.early_instability.early = 500
    # How far the smoothed loss must rise above its lowest so far, in standard errors: over 500
    # steps of noise the largest such rise is 5 or 6
    config.early_instability.errors = 9.0
    # A rise worth a look, in parts of the first loss
    config.early_instability.look_part = 0.2
    # A rise to be mended; the playbook's Figure 5 shows one to twenty times the first loss
    config.early_instability.act_part = 1.0

    config.end_of_training = ConfigDict()
    # That a flat curve seems to fall so; at two of three trials, 1 in 3,000
    config.end_of_training.chance = 0.01
    # From the fourth fifth to the last one: less than this part of the value is no progress to
    # wait for
    config.end_of_training.smallest = 0.02
    # A curve "saturated long before the end" if it stays within smallest of its end, or within
    # its scatter, from this part of the run on
    config.end_of_training.saturated_at = 0.4
    # Standard errors of a smoothed value that count as its scatter; its lowest is two or so below
    # what is true
    config.end_of_training.near = 5.0
    # What part of the best trials must still improve ("saturated" must be all: in doubt, train
    # longer)
    config.end_of_training.most = 0.6

    config.enough_trials = ConfigDict()
    # A trial is in the good region if it is worse than the best by no more than so many standard
    # deviations of its retrain noise, or where that is not known of one evaluation: trained
    # again, the best one would come out as far off
    config.enough_trials.noises = 2.0
    # Where no noise is known, or it is zero: this part of the best value
    config.enough_trials.part = 0.02
    # Trials in the good region that are enough: as many as the playbook's figures star, so that
    # the best is not alone by luck
    config.enough_trials.good = 3

    config.failed = ConfigDict()
    # The playbook: trials "many standard deviations worse" are uncharacteristically bad; so many
    # from the median, of the scatter of the better half
    config.failed.deviations = 4.0
    # And beyond a gap of so many, which the tail of a wide study does not have
    config.failed.gap = 2.5
    # A training loss that ends above this part of where it began shows nothing learned, or all
    # lost again: a result as bad as that of a trial that the contract calls infeasible
    config.failed.unlearned = 0.9
    # What part of the trials that learned can be far outside: more of them are no exception but a
    # level of their own, that of an optimizer, say, and what moves the objective explains it
    config.failed.most = 0.25
    # A training loss that is never above so many times the first one has not diverged: batches
    # scatter
    config.failed.still = 1.1

    config.fairness = ConfigDict()
    # A value tried with fewer than this part of another one's trials has had less luck to choose
    # from; a joint study of 20 trials gives each of two values 10, give or take one
    config.fairness.fewer = 0.6666666666666666

    config.feasible = ConfigDict()
    # Of an end in which training fails where there is none, over all the cuts and ends; customary
    config.feasible.chance = 0.05
    # From which chance on the evidence is strong, so that the next study leaves the end out
    # without asking
    config.feasible.strong = 0.01
    # What part of an end's trials must fail: where more train, the end is not lost
    config.feasible.pure = 0.75

    config.features = ConfigDict()
    # A range that has no zero goes near enough to it if its strongest value is so many times its
    # weakest
    config.features.near_off = 100.0

    config.gains = ConfigDict()
    # What is worth having: a gain of so many standard deviations of the retrain noise, or where
    # that is not known of what scatters around the fit; one of that size is seen in a single pair
    # of runs 9 times in 10
    config.gains.worth = 2.0

    config.gradient_outliers = ConfigDict()
    # "far above the 90th percentile" of the steps around: so many times; log-normal norms whose
    # logarithms have a standard deviation of 0.4 are so large once in 100 million steps
    config.gradient_outliers.far = 5.0
    # And so many standard deviations of the logarithm (measured by quartiles): where norms vary
    # wildly all the time, large ones are no outliers
    config.gradient_outliers.deviations = 6.0
    # The loss has risen with a gradient if it is so many standard deviations of its scatter above
    # before
    config.gradient_outliers.loss_deviations = 5.0
    # A part of the run that does not count: that the first gradients are large is no instability
    config.gradient_outliers.settling = 0.02

    config.infeasible = ConfigDict()
    # The playbook says "a very large fraction" and gives no number; in the space that its Figure
    # 1 calls good, 38 % are infeasible
    config.infeasible.look_fraction = 0.4
    # More than half of the budget is lost, by more than the sampling error of 20 trials (11
    # points)
    config.infeasible.act_fraction = 0.6
    # Ended trials below which a fraction says nothing
    config.infeasible.fewest = 5

    config.infeasible_region = ConfigDict()
    # Of a region where there is none, over all the places looked at together; customary
    config.infeasible_region.chance = 0.05

    config.input_bound = ConfigDict()
    # Of the time that devices wait: a study that takes 1.4 times as long as it might
    config.input_bound.act_part = 0.3

    config.instability = ConfigDict()
    # The best is right at the edge if training diverges at so many times its learning rate: the
    # playbook checks the sign "with a learning rate either 5x or 10x larger than this peak"
    config.instability.near = 5.0
    # And may be at it up to so many times
    config.instability.nearly = 10.0
    # That the best few lie so close to the edge by chance; customary
    config.instability.chance = 0.05
    # The same, weak but worth a look
    config.instability.weak_chance = 0.2
    # What near is on an axis that is not logarithmic: a part of the stretch below the edge
    config.instability.near_part = 0.15
    # What nearly is there
    config.instability.nearly_part = 0.25
    # "all trials are infeasible above some threshold" if such a part is: other hyperparameters
    # differ too
    config.instability.pure = 0.75

    config.isolation = ConfigDict()
    # How often a difference may be told where there is none, over all pairs of values; halved
    # between two ways to see one: the trials as they are, and with the nuisance hyperparameters'
    # effects taken out
    config.isolation.chance = 0.05
    # A difference of two trials is within retrain noise up to so many standard deviations of the
    # difference of two runs: trained again, the other one might be ahead
    config.isolation.noises = 2.0

    config.late_variance = ConfigDict()
    # Late scatter in parts of the spread of the trials that compete: at a third it moves trials
    # by few places
    config.late_variance.look_part = 0.6
    # As large as the spread, the order of the trials is luck
    config.late_variance.act_part = 1.0
    # The better part that competes: that a hopeless trial is worse, no scatter hides
    config.late_variance.competing = 0.5
    # Complete trials; of fewer, their spread is not known to better than a third
    config.late_variance.fewest = 6

    config.overfitting = ConfigDict()
    # That one of the best trials seems to overfit by its scatter alone, all together; the chance
    # is that of flat curves, of curves that still fall it is less
    config.overfitting.chance = 0.05
    # The same for any one of the other trials, which are counted: so many more must rise that it
    # has the probability chance
    config.overfitting.other_chance = 0.02
    # A rise of less than this part of the best value is no problem: retrospective selection takes
    # the best
    config.overfitting.smallest = 0.03
    # How far training may be above where it was, in standard errors of a smoothed value, and
    # still not rise
    config.overfitting.training_errors = 3.0
    # What part of the trials that count must overfit before regularization is added without
    # asking: where one of three was acted on, the next study got worse
    config.overfitting.most = 0.5

    config.periodicity = ConfigDict()
    # That scatter alone is so periodic: a bug is not to be suspected lightly
    config.periodicity.chance = 0.01

    config.retrain_noise = ConfigDict()
    # The better half of the trials differ by no more than retraining does if their standard
    # deviation is this part of its: of equal trials that half is 0.6 apart, and ten runs know the
    # noise to a quarter
    config.retrain_noise.alike = 1.0

    config.sensitivity = ConfigDict()
    # Of an axis that is worth narrowing
    config.sensitivity.most_kept = 0.6
    # How often anything may be said to matter that does not: half of it for the hyperparameters
    # in each of three ways of looking, half for the pairs; by simulation that comes to 4 %
    config.sensitivity.chance = 0.03

    config.training_fit = ConfigDict()
    # Validation is hardly worse than training where training has this part of its error: what is
    # left to gain is in training, not in the gap that regularization closes
    config.training_fit.no_gap = 0.8
    # A training error rate below this is "fit" all the same; the playbook means a
    # misclassification of zero or so
    config.training_fit.fit = 0.01

    config.training_loss = ConfigDict()
    # That a flat loss seems to rise so far
    config.training_loss.chance = 0.01
    # A rise counts from this part of what the loss has fallen before: less is a learning rate
    # that lets the loss wander, and no bug
    config.training_loss.smallest = 0.1
    # Where a smaller part of the trials rise, it is what their learning rates do to them; a bug
    # would do it to all
    config.training_loss.many = 0.5

    config.works = ConfigDict()
    # Where a smaller part of the trials trains, the sides on which they fail are cut off; with
    # more, the space is good: it shows where its end is
    config.works.least = 0.8

    return config
