"""Training: data sets, models, the loop and the metrics; needs the extra ``[train]``."""
