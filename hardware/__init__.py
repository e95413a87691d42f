"""What a network costs, predicted and measured.

from hardware import ProfileSettings, profile_device
profiled = profile_device(ProfileSettings(target_hardware="cpu", quick=True))
"""

from hardware.profile.device import Profiled, ProfileSettings, profile_device

__all__ = ["ProfileSettings", "Profiled", "profile_device"]
