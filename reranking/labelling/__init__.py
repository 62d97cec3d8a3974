"""Labels, work lists, agreement, mining, training data; no model is loaded.

Public: what `answers`, `training_answers` and `worklist_answers` answer.
"""
