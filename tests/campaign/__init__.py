"""Campaigns: long random attempts to break what is promised. A new one is a file here and a line below."""

from tests.campaign import mutants
from tests.campaign.calls import CALLS
from tests.campaign.damage import DAMAGE
from tests.campaign.hostile import HOSTILE
from tests.campaign.kills import KILLS

CAMPAIGNS = {campaign.name: campaign for campaign in (KILLS, DAMAGE, HOSTILE, CALLS, mutants.campaign())}
