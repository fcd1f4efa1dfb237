"""One file = one sample-quality metric.

Three layers: `_features` turns images into features by a net, `_statistics` turns features into moments and errors, and a
metric turns those into scores. A metric is a frozen dataclass of settings with one method, `measure`; the names of its
arguments say what it looks at, and `klprobe.evidence` hands it over:

    samples, data      points of shape (m, *shape), made by the model and held out; on the scale of the data where both are
                       asked for, else images in [0, 1]
    validation         further points that the model was not trained on, or None
    sample_features, data_features      `Features` of the same points
    sample_labels      classes that the samples were asked to be of, shape (m,)
    data_labels        classes of the held-out points, shape (m,), where the model is conditional; None elsewhere
    own_logits, held_out_labels         of the held-out points, by the model's own classifier, shape (n, classes); their classes
    model              `Model`: what a trained system can be asked for
    codes, means       draws of the aggregate posterior, one a data point, shape (n, D), and the posterior means or None
    prior_codes        draws of the prior, shape (m, D)
    centres, std       of the modes, where the data have some
    perceptual         path of a net whose layers judge likeness
    generator          source of all randomness
    progress           told how far the work is
"""
