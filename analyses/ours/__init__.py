"""What no paper has: brackets, other people's encoders, every system side by side, benchmarks, programs to copy from.

Items: systems, third_party, verdict_against_n, elbo_surgery, dimension_scaling_page, ratio_estimators_page, monte_carlo,
training, loading, vae_mnist.
Beside them: dimension_scaling, dimension_scaling_settings, dimension_scaling_summary, ratio_estimators (what two pages run
and count); systems_page, systems_settings, monte_carlo_page, posteriors, _pythae (parts of the items of like name, and what
the encoders of other people are); track_vae, train_demo (programs to copy from).
"""
