"""Grading of answers: the samples' rules, extraction from a model's text, normal forms, and a
judge.
"""
