"""Self-Instruct in Uzbek: rows that a strong model writes from seeds, filtered, balanced, at a known price.

Wang, Kordi, Mishra, Liu, Smith, Khashabi and Hajishirzi 2023, "Self-Instruct" (arXiv 2212.10560); the code is ours.
"""
