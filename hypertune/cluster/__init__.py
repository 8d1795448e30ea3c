"""Elsewhere: hands a study to a cluster, and follows it from here.

`request.py` is the way in: a study that is asked for, checked and made ready to be sent.
`ray_job.py` speaks with Ray's job server, `slurm.py` writes a batch script and sends it,
`upload.py` lays out what travels, `attach.py` tells how a search goes that runs elsewhere or in
another process.
"""

from hypertune.cluster.attach import Watch, check_code, published
from hypertune.cluster.ray_job import Cluster, Entrypoint, Job, parse_resources
from hypertune.cluster.request import RayJob, Request, batch_ready
from hypertune.cluster.slurm import Batch, send_batch
from hypertune.cluster.upload import Upload

__all__ = [
    "Batch",
    "Cluster",
    "Entrypoint",
    "Job",
    "RayJob",
    "Request",
    "Upload",
    "Watch",
    "batch_ready",
    "check_code",
    "parse_resources",
    "published",
    "send_batch",
]
