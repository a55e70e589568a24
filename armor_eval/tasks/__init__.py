"""What is measured, one package a kind of task; each implements armor_eval.engine.task.Task."""
