"""Models of the study's target: three kinds, so that no figure hangs on one kind's taste."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.utility import categorical_mask, features, labels, learnable, predictors
from pratique_server.evaluation.rows import Rows

Float64Array = NDArray[np.float64]

_QUANTILES = 1_000


def _gradient_boosting(schema: TableSchema, num_rows: int) -> ClassifierMixin:
    del num_rows
    return HistGradientBoostingClassifier(
        max_iter=150,
        early_stopping=False,
        random_state=0,
        categorical_features=categorical_mask(predictors(schema)),
    )


def _random_forest(schema: TableSchema, num_rows: int) -> ClassifierMixin:
    del schema, num_rows
    # Leaves of five rows: probabilities of single rows would be 0 and 1.
    return RandomForestClassifier(100, min_samples_leaf=5, random_state=0)


def _logistic_regression(schema: TableSchema, num_rows: int) -> ClassifierMixin:
    kinds = [isinstance(column, CategoricalColumn) for column in predictors(schema)]
    one_hot = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1), OneHotEncoder(handle_unknown="ignore")
    )
    # Ranks as normal deviates: heavy tails would rule the fit.
    numbers = make_pipeline(
        QuantileTransformer(
            n_quantiles=min(_QUANTILES, num_rows), output_distribution="normal", random_state=0
        ),
        SimpleImputer(strategy="constant", fill_value=0, add_indicator=True),
    )
    prepare = ColumnTransformer(
        [
            ("levels", one_hot, np.flatnonzero(kinds)),
            ("numbers", numbers, np.flatnonzero(~np.array(kinds))),
        ]
    )
    return make_pipeline(prepare, LogisticRegression(max_iter=1_000))


LEARNERS: dict[str, Callable[[TableSchema, int], ClassifierMixin]] = {
    "gradient boosting": _gradient_boosting,
    "logistic regression": _logistic_regression,
    "random forest": _random_forest,
}
MAIN_LEARNER = "gradient boosting"


@dataclass(frozen=True)
class Outcome:
    """A model of the target; None if the table that it learnt from had one outcome only."""

    schema: TableSchema
    model: ClassifierMixin | None

    @classmethod
    def fit(cls, learner: str, schema: TableSchema, rows: Rows) -> "Outcome":
        """Fit on the rows whose outcome is known; the same rows give the same model."""
        label, known = labels(schema, rows.columns)
        if len(np.unique(label[known])) < 2:
            return cls(schema, None)
        x = learnable(features(predictors(schema), rows.columns)[known])
        model = LEARNERS[learner](schema, len(x))
        last = {"logisticregression__sample_weight": rows.weight[known]}
        weights = (
            {"sample_weight": rows.weight[known]} if learner != "logistic regression" else last
        )
        return cls(schema, model.fit(x, label[known], **weights))

    def risk(self, rows: Rows) -> tuple[NDArray[np.bool_], Float64Array, Rows]:
        """Return outcome and predicted risk of the rows whose outcome is known, and these rows."""
        label, known = labels(self.schema, rows.columns)
        kept = rows.take(known)
        if self.model is None or not known.any():
            return label[known], np.full(int(known.sum()), 0.5), kept
        x = features(predictors(self.schema), rows.columns)[known]
        return label[known], np.asarray(self.model.predict_proba(x)[:, 1], np.float64), kept
