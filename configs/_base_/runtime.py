"""What every run shares: hooks, and how random numbers are treated."""

default_scope = "perception"

default_hooks = dict(
    pretext=dict(type="PretextHook"),  # schedules and teachers of the pretexts
    guard=dict(type="NonFiniteGuard"),  # stops on NaN before it reaches a checkpoint
    param_scheduler=dict(type="ParamSchedulerHook"),
    scalars=dict(type="ScalarsHook", interval=10),  # scalars.jsonl; tensorboard=True, wandb=dict() add these
    progress=dict(type="ProgressHook", seconds=10.0),  # seconds between lines where there is no terminal
    pictures=dict(type="PicturesHook"),  # at the end; interval=10 for every tenth epoch too
    checkpoint=dict(type="SafeCheckpointHook", every_seconds=120.0, max_keep_ckpts=1),
    sigterm=dict(type="SigtermHook"),  # finish the step, save, exit 143
)
custom_hooks = []

# deterministic=True makes cuDNN repeatable at some cost; CPUs are repeatable anyway. The seed is the command line's.
randomness = dict(deterministic=False)
