"""The fixed text of ``CARD.md``: recipes, alternatives tried, and what the negative control teaches."""

from __future__ import annotations

NOTES = """\
## Recipes

All: AdamW, gradient norm clipped at 1, linear warm-up and cosine decay, one thread; stored as float16. A weak view
is an affine warp (5 degrees, 5 % scale, 0.4 px shift, 0.15 shear), 10 % intensity and Gaussian noise.

- **digits-jepa, digits-jepa-b**: MLP 64-128-128-16, GELU, L2 normalisation inside. Two weak views (noise 0.15):
  0.5 x mean squared distance + 0.5 x KoLeo. The same recipe from two seeds; the second serves as a held-out judge.
- **digits-ijepa**: ViT, 16 tokens of 2x2 pixels, width 96, two blocks, mean of the final-normed tokens. I-JEPA (two
  hidden 2x2-token blocks, moving-average target 0.98 to 0.998, narrow predictor, smooth-L1 on layer-normed targets)
  plus 0.5 x KoLeo on the pooled context and 1 x its distance to the pooled target, stopped after 600
  steps. The moving average is shipped.
- **digits-vicreg**: MLP 64-128-128-16, a plain Linear at the end; VICReg (25, 25, 1) behind a projector on views that
  differ by noise of standard deviation 0.3. The negative control.
- **digits-ddpm**: residual MLP, width 256, three blocks modulated by time and label; velocity loss, uniform time steps,
  half of the labels dropped, moving average 0.999. It returns the predicted noise.
- **digits-classifier**: MLP 64-128-64-10 on weak views.

## Alternatives tried

The recipes were chosen on training images (kNN rho, agreement of seeds) and, for the generator, on FD to the
training images. They were fixed before any guided sample was looked at, except that the ViT's length, batch and
agreement were set back once (1,000 steps gave .04, below) after guided samples of the other encoders had been seen.
The linear probe was read on the test split and did weigh in once: it decided between the two sphere recipes with
agreement 0.5. The guidance step eta = 1 was declared beforehand from an earlier study and kept after a look at
sampling seeds 100 and 101. The benchmark samples with seeds 11, 12 and 13, which nothing here was tried with: the
generator's settings were compared on seeds 0, 1 and 2. Figures of development seeds, not of the shipped files (probe:
mean of two seeds):

| sphere encoder, weak views | kNN rho train | two seeds: rho; overlap | probe | CPU s |
| --- | --- | --- | --- | --- |
| agreement 1, noise 0.1, 1,000 steps (where we started) | .56 .54 | .91; .79 | .92 | 6 |
| agreement 1/16, noise 0.1, 1,000 steps | .64 .60 | .71; .63 | .63 | 6 |
| agreement 1, noise 0.1, 2,000 steps | .56 .53 | .91; .79 | .89 | 14 |
| agreement 2, noise 0.1, 2,000 steps | .44 .46 | .91; .79 | .95 | 14 |
| agreement 0.5, noise 0.1, 2,000 steps | .64 .65 | .90; .77 | .80 | 16 |
| agreement 0.7, noise 0.1, 1,500 steps | .59 .60 | .91; .77 | .87 | 11 |
| agreement 1, noise 0.05, 1,000 steps | .60 .61 | .91; .76 | .90 | 8 |
| agreement 1, noise 0.15, 1,000 steps | .49 .45 | .91; .79 | .94 | 7 |
| agreement 1, noise 0.1, batch 256, 1,000 steps | .60 .61 | .92; .79 | .90 | 19 |
| **agreement 0.5, noise 0.15, 1,500 steps** | .60 .61 | .92; .77 | .89 | 13 |

| I-JEPA ViT, 300 to 600 steps; kNN rho on every fourth training image | kNN rho | probe |
| --- | --- | --- |
| prediction loss alone | -.02 | .77 |
| the same, 1,000 steps (all training images) | -.02 | .90 |
| + KoLeo 0.5 on pooled whole images, agreement 1 or 10 | .15, .11 | .82 |
| + KoLeo 0.1 on pooled whole images, agreement 0.2 | .12 | .83 |
| + KoLeo 0.1 on unnormalised pooled tokens | .05 | .82 |
| **+ KoLeo 0.5 on pooled context, agreement 1**, 400 and 600 steps of 96 | .14, .15 | .81, .84 |
| the same, agreement 0.5, 1,000 steps of 128 (all training images) | .04 | .90 |
| the same, agreement 0 | .15 | .71 |
| the same, noise 0.03; 0.25; noise alone 0.05; 0.3 | .11; .12; .16; .10 | .74 to .81 |
| KoLeo 1 on pooled context, agreement 0.3, batch 192 | .17 | .76 |
| no prediction, two views, KoLeo 0.5, agreement 1 | .11 | .97 |

Each line is one development seed on 375 images (learning rate 1e-3 or 2e-3, final moving average 1 or 0.998), so
differences below .05 mean nothing, and the 375 flatter: whole images with agreement 1 gave .15 on them and .11 on
all 1,500. The shipped seed's figure in the table of encoders is lower still. Even without the prediction task this
ViT stays near .1, probably because its output has more dimensions than the image has pixels: the score then counts
all 64 pixel directions, most of which lead off the digits. Treat its score as hardly density-like: it is here as a
second architecture, whose verdict the board prints without leaning on it.

| generator, 3,000 steps | FD unconditional (three seeds) | FD conditional | CPU s |
| --- | --- | --- | --- |
| noise loss, width 192, 30 % of labels dropped | 17.6 20.7 18.4 | 3.7 | 33 |
| noise loss, width 192, 50 % dropped | 13.9 16.5 14.5 | 4.4 | 29 |
| velocity network, noise loss, width 192 | 13.7 16.3 15.0 | 4.8 | 29 |
| velocity loss, width 192 | 10.6 12.3 10.7 | 3.6 | 29 |
| velocity loss, width 192, batch 64, 6,000 steps | 8.0 10.1 8.5 | 3.1 | 40 |
| velocity loss, width 256 | 6.8 8.9 7.5 | 2.6 | 36 |
| velocity loss, width 256, four blocks | 7.6 8.8 7.7 | 2.6 | 49 |
| velocity loss, width 256, narrower embedding, 40 % dropped | 8.1 10.5 8.6 | 2.9 | 32 |
| **velocity loss, width 256, peak lr 4e-3** | 6.0 8.1 5.9 | 2.6 | 40 |
| noise loss, width 192, 30 % dropped, 9,000 steps | 6.3 8.5 7.1 | 1.4 | 81 |

## What the negative control teaches

digits-vicreg passes every usual check of an encoder: its two-seed agreement is high (Spearman .82 between
development seeds), its linear probe is above .95, its effective rank is nearly full. Yet its score is inverted: the
invariance term contracts exactly the dense regions, so that the lowest scores belong to the prototypes (well-formed
zeros and sixes) and kNN rho is clearly negative. Under guidance the score falls steadily while the samples go towards
the prototypes: they hardly approach the encoder's own "minority" set, and on the board (`leaderboards/digits.md`,
three sampling seeds, rows guided by digits-vicreg) they move away from the benchmark's. Measured once with the files
of training seed 0 (one sampling seed, 960 samples, eta 0, 1, 2, 5), against each encoder's own lowest quarter:

| guide | mean score | FD to its lowest quarter | distance to nearest training image | classifier confidence |
| --- | --- | --- | --- | --- |
| digits-vicreg | -38.5 -39.7 -40.5 -41.7 | 75.9 70.7 72.0 80.4 | 1.96 1.84 1.77 1.73 | .965 .976 .985 .995 |
| digits-jepa (0, 1, 2) | -12.8 -14.4 -15.7 | 18.4 8.7 8.9 | 1.96 2.07 2.18 | .965 .940 .926 |

With digits-jepa the held-out digits-jepa-b sees the same fall (-12.8 -14.3 -15.6). A low score alone therefore
proves nothing: check first that an encoder's kNN rho is positive, and report a distance to the minority set beside
the score. A blank image scores far below the digits under the sphere encoders: a sampler that drew nothing would
win by score.
"""
