"""Launches the planted fault of one checker. usage: planted.py FATBIN TOOL"""

import sys

import torch

from driver import Driver

out = torch.zeros(64, dtype=torch.int32, device='cuda')
Driver(sys.argv[1]).launch(f'attend_planted_{sys.argv[2]}', (1,), 64, [out, 64])
torch.cuda.synchronize()
