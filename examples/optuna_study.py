"""Search for good settings with Optuna; given again, it goes on with the same study.

python examples/optuna_study.py
"""

import optuna

import topolearn


def main(trials: int = 3) -> None:
    """Search, and print the best settings."""
    space = {"fan_in": (1, 4), "lr": optuna.distributions.FloatDistribution(0.01, 0.3, log=True)}
    objective = topolearn.objective("digits", space, epochs=2)
    study = optuna.create_study(
        storage="sqlite:///study.db", study_name="digits", direction=objective.direction, load_if_exists=True
    )
    study.optimize(objective, n_trials=trials)
    print(f"done: {len(study.trials)} trials; best {objective.metric} {study.best_value:.1%} with {study.best_params}")


if __name__ == "__main__":
    main()
