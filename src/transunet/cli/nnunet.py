"""`transunet nnunet`: nnU-Net's own commands, knowing the trainers of this package."""

from typing import Annotated

import typer

EXAMPLE = "Example: transunet nnunet nnUNetv2_train 4 2d 0 -tr nnUNetTrainerTransUNet"
SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""Everything after nnU-Net's command is nnU-Net's to read."""


def nnunet(
    command: Annotated[
        str | None, typer.Argument(help="One of nnU-Net's commands, such as nnUNetv2_train.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What that command takes, unchanged.")
    ] = None,
) -> None:
    """Run one of nnU-Net v2's commands so that it finds nnUNetTrainerTransUNet.

    Without COMMAND, print the folder to put into nnUNet_extTrainer: with that variable nnU-Net's
    commands find the trainer by themselves.
    """
    from transunet.integrations.nnunet.launch import run, trainer_folder

    if command is None:
        print(trainer_folder())
    else:
        run(command, arguments or [])
