"""Logical inference (Bowman, Manning, Potts 2015; Shen et al. 2019, section 5.4, Figure 3).

Cell by argument: `on_lstm` (default), `lstm`, or any other. Trained on formulas of at most 6
operators, tested for each number of operators from 0 to 12. The paper prints a figure: both
near 100 % to 3 operators, the ON-LSTM ahead from 7 on. 50 epochs; validation accuracy
chooses the epoch. What the paper leaves out is as in the authors' program: batches are random
draws, embedded symbols have dropout, too, and all weights of both cells begin alike, as
PyTorch's linear maps. 1,535,143 parameters with the ON-LSTM, 1,492,743 with the LSTM. Reads
`$HMRNN_DATA/propositional-logic`, or the folder `data.path`.

    python train.py --config=configs/logic.py:on_lstm --workdir=runs/logic-on
    python train.py --config=configs/logic.py:lstm --workdir=runs/logic-lstm
"""

from hmrnn_jax import defaults


def get_config(cell="on_lstm"):
    config = defaults.logic()
    config.model.cell = cell
    return config
