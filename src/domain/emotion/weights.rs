//! Made by `./dev eval emotion --train` from benches/emotion/emodb.csv. Features: pitch, spread, slope, tilt,
//! centroid, clarity; for the classes then the bias.

use super::Weights;

pub const SHIPPED: Weights = Weights {
    usual: [9.909, 2.805, -1.147, -15.883, 1.952, 0.896],
    spread: [5.105, 0.902, 3.018, 5.033, 0.525, 0.025],
    arousal: [1.646, 0.416, 0.485, 0.91, 0.504, -0.371],
    classes: [
        [0.358, 0.142, 0.258, 0.568, 0.581, -0.549, 0.005],
        [0.715, 0.5, -0.098, 0.254, 0.131, 0.262, 0.596],
        [-0.605, 0.099, -0.385, -0.359, 0.177, 0.047, 0.55],
        [-0.468, -0.74, 0.226, -0.463, -0.889, 0.24, -1.151],
    ],
};
