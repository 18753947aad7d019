"""A judge: a strong model that grades written answers, and is measured itself while it does.

from harness.judge.asking import Settings
from harness.judge.pointwise import judge_runs      # grades, as scores of the run
from harness.judge.pairwise import judge_pairs      # preferences, both orders
"""
