"""What is asked: Uzbek tasks for lm-eval, one folder each, and the Uzbek text they share.

Stock lm-eval runs them too: `lm_eval run --include_path tasks_uz --tasks uz_core`.
"""
