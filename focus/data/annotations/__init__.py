"""Boxes that people drew: exports of Label Studio, CVAT and COCO, and how they are joined with
records.
"""
